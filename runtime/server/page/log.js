// The messages on the page.

import { describe } from "./conversation.js";
import { renderMarkdown } from "./markdown.js";
import { plainPainter, Sources } from "./sources.js";

export class Log {
  #list;
  #sources = new Sources();
  #coloured = false;

  constructor(list) {
    this.#list = list;
  }

  // Shows all messages; `regenerate` is called for another answer in place of the latest.
  show(messages, { coloured, isGoing, regenerate }) {
    this.#coloured = coloured;
    this.#keepEnd(() => {
      this.#list.replaceChildren(...messages.map((message) => this.#item(message)));
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

  #item(message) {
    const item = document.createElement("li");
    item.className = message.role;
    if (message.role === "user") item.append(this.#who("You"), message.content);
    else this.#fill(item, message, false, null);
    return item;
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
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = "Regenerate";
      button.addEventListener("click", regenerate);
      below.append(button);
    }
    return below;
  }
}
