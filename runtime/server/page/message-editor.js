// A form to edit a message in its place.

import { makeButton } from "./button.js";

// `send` is called with the new text, which is not empty; `cancel` when the old one is to stay.
export function makeEditor(text, send, cancel) {
  const form = document.createElement("form");
  form.className = "editor";
  const field = document.createElement("textarea");
  field.setAttribute("aria-label", "Your message");
  field.value = text;
  field.rows = Math.min(12, text.split("\n").length + 1);
  form.append(field, makeButton("Send again", undefined, "submit"), makeButton("Cancel", cancel));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (field.value.trim()) send(field.value);
  });
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    } else if (event.key === "Escape") {
      event.stopPropagation();
      cancel();
    }
  });
  return form;
}
