// What the user chose for answers; fields left empty are the server's own.

const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "seed", "max_tokens"];
const byId = (id) => document.getElementById(id);

// The settings, or an error that names the field that is out of its range.
export function readSettings() {
  const settings = { system: byId("system").value.trim() };
  for (const name of NUMBERS) {
    const field = byId(name);
    if (!field.checkValidity()) {
      const label = document.querySelector(`label[for="${name}"]`).textContent;
      throw new Error(`${label}: ${field.validationMessage}`);
    }
    if (field.value !== "") settings[name] = Number(field.value);
  }
  return settings;
}

export function isColoured() {
  return byId("coloured").checked;
}
