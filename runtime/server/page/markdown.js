// Markdown as DOM nodes. Text of a model is not trusted: it only ever becomes the content of text nodes, and links lead
// to web and mail addresses alone. Pictures are links, so that nothing is loaded.
//
// `paint(parent, text, offset)` adds a run of text that begins at `offset` of the whole, so that callers can colour it.

const DEEPEST = 8;
// How far the end of a span is looked for, in characters: it bounds the work for text that only looks like Markdown.
const REACH = 2000;
const FENCE = /^ {0,3}(`{3,}|~{3,})/;
const HEADING = /^ {0,3}(#{1,6})\s+/;
const RULE = /^ {0,3}(?:-[ -]*-[ -]*-|\*[ *]*\*[ *]*\*|_[ _]*_[ _]*_)[ -*_]*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)(?:[-*+]|(\d{1,9})[.)])\s+/;
const TABLE = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;
const ADDRESS = /https?:\/\/[^\s<>"'`)\]]+/y;
const ESCAPABLE = "\\`*_{}[]()#+-.!~>|";

export function renderMarkdown(parent, text, paint) {
  let offset = 0;
  const lines = text.split("\n").map((line) => {
    const found = { text: line, offset };
    offset += line.length + 1;
    return found;
  });
  renderBlocks(parent, lines, paint, 0);
}

function renderBlocks(parent, lines, paint, depth) {
  let place = 0;
  while (place < lines.length) {
    const render = blockAt(lines[place].text, depth, lines[place + 1]?.text);
    place += render === null ? 1 : render(parent, lines.slice(place), paint, depth);
  }
}

// The function that renders the block a line begins, where `next` is the line after it; null for an empty line. It
// returns how many lines it took.
function blockAt(text, depth, next) {
  if (!text.trim()) return null;
  if (FENCE.test(text)) return renderFence;
  if (HEADING.test(text)) return renderHeading;
  if (RULE.test(text)) return renderRule;
  if (depth < DEEPEST && QUOTE.test(text)) return renderQuote;
  if (depth < DEEPEST && ITEM.test(text)) return renderList;
  if (next !== undefined && isTable(text, next)) return renderTable;
  return renderParagraph;
}

function renderFence(parent, lines, paint) {
  const mark = FENCE.exec(lines[0].text)[1];
  const code = add(add(parent, "pre"), "code");
  let place = 1;
  for (; place < lines.length; place += 1) {
    const line = lines[place];
    if (line.text.trim().startsWith(mark) && !line.text.trim().slice(mark.length).trim()) return place + 1;
    paint(code, `${line.text}\n`, line.offset);
  }
  return place;
}

function renderHeading(parent, lines, paint, depth) {
  const { length } = HEADING.exec(lines[0].text)[0];
  const level = HEADING.exec(lines[0].text)[1].length;
  const line = cut(lines[0], length);
  renderInline(add(parent, level < 3 ? "h3" : "h4"), line.text, line.offset, paint, depth);
  return 1;
}

function renderRule(parent) {
  add(parent, "hr");
  return 1;
}

function renderQuote(parent, lines, paint, depth) {
  const end = firstWithout(lines, (text) => QUOTE.test(text));
  const inner = lines.slice(0, end).map((line) => cut(line, QUOTE.exec(line.text)[0].length));
  renderBlocks(add(parent, "blockquote"), inner, paint, depth + 1);
  return end;
}

function renderList(parent, lines, paint, depth) {
  const [, indent, number] = ITEM.exec(lines[0].text);
  const list = add(parent, number === undefined ? "ul" : "ol");
  if (number !== undefined) list.start = Number(number);
  let place = 0;
  while (place < lines.length && isItem(lines[place].text, indent, number)) {
    const width = ITEM.exec(lines[place].text)[0].length;
    const rest = lines.slice(place + 1);
    const size = 1 + firstWithout(rest, (text, index) => belongs(text, rest[index + 1]?.text, indent.length + 2));
    const item = lines.slice(place, place + size).map((line, index) =>
      cut(line, index === 0 ? width : Math.min(width, line.text.length - line.text.trimStart().length)));
    renderItem(add(list, "li"), item, paint, depth);
    place += size;
  }
  return place;
}

function isItem(text, indent, number) {
  const found = ITEM.exec(text);
  return found !== null && !RULE.test(text) && found[1].length === indent.length
    && (found[2] === undefined) === (number === undefined);
}

// Whether a line continues an item: it is indented, or empty before an indented one.
function belongs(text, next, indent) {
  const isIndented = (line) => line !== undefined && line.trim() && line.length - line.trimStart().length >= indent;
  return Boolean(isIndented(text) || (!text.trim() && isIndented(next)));
}

// An item of one paragraph has no paragraph around it.
function renderItem(item, lines, paint, depth) {
  renderBlocks(item, lines, paint, depth + 1);
  const [first] = item.children;
  if (first?.tagName === "P") first.replaceWith(...first.childNodes);
}

// Whether `head` and the line below it begin a table: that one has only dashes, for as many columns.
function isTable(head, below) {
  return head.includes("|") && TABLE.test(below) && cellsOf({ text: head, offset: 0 }).length === columnsOf(below).length;
}

function renderTable(parent, lines, paint, depth) {
  const frame = add(parent, "div");
  frame.className = "table";
  const table = add(frame, "table");
  const columns = columnsOf(lines[1].text);
  renderRow(add(table, "thead"), "th", lines[0], columns, paint, depth);
  const rows = lines.slice(2);
  const count = firstWithout(rows, (text, index) => blockAt(text, depth, rows[index + 1]?.text) === renderParagraph);
  if (count) {
    const body = add(table, "tbody");
    for (const line of rows.slice(0, count)) renderRow(body, "td", line, columns, paint, depth);
  }
  return 2 + count;
}

// A row; cells beyond the last column are left out.
function renderRow(parent, tag, line, columns, paint, depth) {
  const row = add(parent, "tr");
  cellsOf(line).slice(0, columns.length).forEach((cell, index) => {
    const element = add(row, tag);
    if (columns[index]) element.className = columns[index];
    renderInline(element, cell.text, cell.offset, paint, depth);
  });
}

// How the cells of each column are aligned; empty for as usual.
function columnsOf(text) {
  return cellsOf({ text, offset: 0 }).map((cell) => {
    if (!cell.text.endsWith(":")) return "";
    return cell.text.startsWith(":") ? "centred" : "right";
  });
}

// The cells of a line, which bars divide that no backslash is before.
function cellsOf(line) {
  const bars = [...line.text.matchAll(/\\.|\|/g)].filter(([found]) => found === "|").map((found) => found.index);
  const ends = [...bars, line.text.length];
  const cells = ends.map((end, index) => trimmed(cut({ ...line, text: line.text.slice(0, end) }, index ? bars[index - 1] + 1 : 0)));
  if (bars.length && !cells[0].text) cells.shift();
  if (bars.length && cells.length && !cells.at(-1).text) cells.pop();
  return cells;
}

function trimmed(line) {
  const found = cut(line, line.text.length - line.text.trimStart().length);
  return { ...found, text: found.text.trimEnd() };
}

function renderParagraph(parent, lines, paint, depth) {
  const goesOn = (text, index) => index === 0 || blockAt(text, depth, lines[index + 1]?.text) === renderParagraph;
  const end = Math.max(1, firstWithout(lines, goesOn));
  const paragraph = add(parent, "p");
  lines.slice(0, end).forEach((line, index) => {
    if (index) add(paragraph, "br");
    renderInline(paragraph, line.text, line.offset, paint, depth);
  });
  return end;
}

function renderInline(parent, text, offset, paint, depth) {
  let shown = 0;
  let place = 0;
  const show = (end) => {
    if (end > shown) paint(parent, text.slice(shown, end), offset + shown);
  };
  while (place < text.length) {
    if (text[place] === "\\" && place + 1 < text.length && ESCAPABLE.includes(text[place + 1])) {
      show(place);
      shown = place + 1;
      place += 2;
      continue;
    }
    const span = depth < DEEPEST ? spanAt(text, place) : null;
    if (span === null) {
      place += 1;
      continue;
    }
    show(place);
    const element = add(parent, span.tag);
    if (span.href) link(element, span.href);
    const inner = text.slice(span.start, span.end);
    if (span.isPlain) paint(element, inner, offset + span.start);
    else renderInline(element, inner, offset + span.start, paint, depth + 1);
    shown = place = span.next;
  }
  show(text.length);
}

// The span that begins at `place`: its tag, where its text is, and where it ends; null if there is none.
function spanAt(text, place) {
  switch (text[place]) {
    case "`":
      return codeAt(text, place);
    case "*":
    case "_":
      return markedAt(text, place, text[place].repeat(2), "strong") ?? markedAt(text, place, text[place], "em");
    case "~":
      return markedAt(text, place, "~~", "del");
    case "!":
      return text[place + 1] === "[" ? linkAt(text, place + 1) : null;
    case "[":
      return linkAt(text, place);
    case "h":
      return addressAt(text, place);
    default:
      return null;
  }
}

function codeAt(text, place) {
  const [mark] = /^`+/.exec(text.slice(place, place + 16));
  const start = place + mark.length;
  const end = find(text, mark, start);
  return end < 0 ? null : { tag: "code", start, end, next: end + mark.length, isPlain: true };
}

function markedAt(text, place, mark, tag) {
  if (!text.startsWith(mark, place)) return null;
  const start = place + mark.length;
  const end = find(text, mark, start + 1);
  const isWord = (at) => /[\p{L}\p{N}]/u.test(text[at] ?? "");
  if (end < 0 || !text[start].trim() || !text[end - 1].trim()) return null;
  if (mark[0] === "_" && (isWord(place - 1) || isWord(end + mark.length))) return null;
  return { tag, start, end, next: end + mark.length };
}

function linkAt(text, place) {
  const end = find(text, "](", place);
  const next = end < 0 ? -1 : find(text, ")", end + 2);
  if (next < 0) return null;
  const href = safeAddress(text.slice(end + 2, next).trim().split(" ")[0]);
  return href === null ? null : { tag: "a", start: place + 1, end, next: next + 1, href };
}

function addressAt(text, place) {
  ADDRESS.lastIndex = place;
  const found = ADDRESS.exec(text)?.[0].replace(/[.,;:!?]+$/, "");
  const href = found === undefined ? null : safeAddress(found);
  return href === null ? null : { tag: "a", start: place, end: place + found.length, next: place + found.length, href, isPlain: true };
}

// An absolute address of the web or of mail; null for any other, such as javascript:.
function safeAddress(text) {
  try {
    const url = new URL(text);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

function link(element, href) {
  element.href = href;
  element.target = "_blank";
  element.rel = "noopener noreferrer nofollow";
}

function find(text, mark, from) {
  const place = text.slice(from, from + REACH).indexOf(mark);
  return place < 0 ? -1 : from + place;
}

function cut(line, count) {
  return { text: line.text.slice(count), offset: line.offset + count };
}

function firstWithout(lines, holds) {
  const place = lines.findIndex((line, index) => !holds(line.text, index));
  return place < 0 ? lines.length : place;
}

function add(parent, tag) {
  return parent.appendChild(document.createElement(tag));
}
