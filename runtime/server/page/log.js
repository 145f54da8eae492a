// The messages on the page.

import { makeButton } from "./button.js";
import { describe } from "./conversation.js";
import { renderMarkdown } from "./markdown.js";
import { makeEditor } from "./message-editor.js";
import { plainPainter, Sources } from "./sources.js";

export class Log {
  #list;
  #sources = new Sources();
  #coloured = false;

  constructor(list) {
    this.#list = list;
  }

  // Shows all messages; `regenerate` is called for another answer in place of the latest, and `edit` with the place of a
  // message of the user and the text to put there.
  show(messages, { coloured, isGoing, regenerate, edit }) {
    this.#coloured = coloured;
    this.#keepEnd(() => {
      this.#list.replaceChildren(...messages.map((message, place) =>
        this.#item(message, isGoing ? null : (text) => edit(place, text))));
      if (messages.length) this.#fillLatest(messages.at(-1), isGoing, regenerate);
    });
  }

  // Shows the latest message again, which has grown.
  update(message, isGoing, regenerate) {
    this.#keepEnd(() => this.#fillLatest(message, isGoing, regenerate));
  }

  #fillLatest(message, isGoing, regenerate) {
    if (message.role === "assistant") this.#fill(this.#list.lastElementChild, message, isGoing, regenerate);
  }

  // Runs `change`; who was reading the end goes on reading it.
  #keepEnd(change) {
    const { scrollHeight, scrollTop, clientHeight } = this.#list;
    change();
    if (scrollHeight - scrollTop - clientHeight < 60) this.scrollToEnd();
    else this.#list.scrollTop = scrollTop;
  }

  scrollToEnd() {
    this.#list.scrollTop = this.#list.scrollHeight;
  }

  #item(message, edit) {
    const item = document.createElement("li");
    item.className = message.role;
    if (message.role === "user") this.#said(item, message, edit);
    else this.#fill(item, message, false, null);
    return item;
  }

  // A message of the user, with a button to edit it.
  #said(item, message, edit) {
    const text = document.createElement("div");
    text.className = "said";
    text.textContent = message.content;
    item.replaceChildren(this.#who("You"), text);
    if (edit === null) return;
    const cancel = () => {
      this.#said(item, message, edit);
      item.querySelector("button").focus();
    };
    const button = makeButton("Edit", () => {
      const editor = makeEditor(message.content, edit, cancel);
      item.replaceChildren(this.#who("You"), editor);
      editor.elements[0].focus();
    });
    button.title = "Edit this message, and go on from here";
    item.append(button);
  }

  #fill(item, message, isGoing, regenerate) {
    const answer = document.createElement("div");
    answer.className = isGoing ? "answer going" : "answer";
    const paint = this.#coloured ? this.#sources.painter(message.pieces) : plainPainter;
    renderMarkdown(answer, message.content, paint);
    item.replaceChildren(this.#who("Model"), ...this.#reasoning(item, message), answer, this.#below(message, isGoing, regenerate));
  }

  #who(name) {
    const who = document.createElement("span");
    who.className = "who";
    who.textContent = name;
    return who;
  }

  #reasoning(item, message) {
    if (!message.reasoning) return [];
    const details = document.createElement("details");
    details.className = "reasoning";
    details.open = item.querySelector("details")?.open ?? false;
    const summary = document.createElement("summary");
    summary.textContent = "Reasoning";
    details.append(summary, message.reasoning);
    return [details];
  }

  #below(message, isGoing, regenerate) {
    const below = document.createElement("div");
    below.className = "below";
    for (const part of describe(message)) {
      const span = document.createElement("span");
      span.textContent = part;
      below.append(span);
    }
    if (this.#coloured) below.append(...this.#sources.legend(message.pieces));
    if (regenerate && !isGoing) {
      below.append(makeButton("Regenerate", regenerate));
    }
    return below;
  }
}
