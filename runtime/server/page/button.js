// A button with a text, of `type` "button" unless it submits a form.
export function makeButton(text, act = () => {}, type = "button") {
  const button = document.createElement("button");
  button.type = type;
  button.textContent = text;
  button.addEventListener("click", act);
  return button;
}
