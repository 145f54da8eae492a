// Colours for text by who proposed it. The target's own text has none.

const TARGET = "target";
const COLOURS = 6;

export class Sources {
  #names = [];

  // The class of a source's colour; the same for a name as long as the page is open.
  className(source) {
    if (!this.#names.includes(source)) this.#names.push(source);
    return `source-${this.#names.indexOf(source) % COLOURS}`;
  }

  // A function that paints runs of the text that `pieces` ({text, source}) make up; see markdown.js.
  painter(pieces) {
    let end = 0;
    const ends = pieces.map((piece) => (end += piece.text.length));
    return (parent, text, offset) => {
      let from = 0;
      for (let index = firstAfter(ends, offset); from < text.length; index += 1) {
        const size = index < ends.length ? ends[index] - offset - from : text.length - from;
        this.#paint(parent, text.slice(from, from + size), pieces[index]?.source ?? TARGET);
        from += size;
      }
    };
  }

  #paint(parent, text, source) {
    if (source === TARGET) {
      parent.append(text);
      return;
    }
    const span = document.createElement("span");
    span.className = `drafted ${this.className(source)}`;
    span.title = `drafted by ${source}`;
    span.textContent = text;
    parent.append(span);
  }

  // A key of the sources in `pieces`, as nodes.
  legend(pieces) {
    const names = [...new Set(pieces.map((piece) => piece.source))].filter((name) => name !== TARGET);
    return names.map((name) => {
      const key = document.createElement("span");
      key.className = "key";
      const swatch = document.createElement("span");
      swatch.className = `swatch ${this.className(name)}`;
      key.append(swatch, name);
      return key;
    });
  }
}

export function plainPainter(parent, text) {
  parent.append(text);
}

// The place of the first of the growing `ends` that is larger than `offset`.
function firstAfter(ends, offset) {
  let low = 0;
  let high = ends.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ends[middle] > offset) high = middle;
    else low = middle + 1;
  }
  return low;
}
