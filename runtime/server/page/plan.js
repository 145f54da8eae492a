// The memory plan as a bar, and the slider that changes the budget.

import { getPlan, putBudget } from "./api.js";

const byId = (id) => document.getElementById(id);

export class PlanPanel {
  #model = "";
  #most = 0;
  #onError;

  constructor(onError) {
    this.#onError = onError;
    const slider = byId("budget");
    slider.addEventListener("input", () => this.#showBudget(Number(slider.value)));
    slider.addEventListener("change", () => this.#change(Number(slider.value)));
  }

  async show(model) {
    if (model !== this.#model) this.#most = 0;
    this.#model = model;
    this.#draw(await getPlan(model));
  }

  async #change(bytes) {
    try {
      this.#draw(await putBudget(this.#model, bytes));
    } catch (error) {
      this.#onError(error);
      await this.show(this.#model).catch(() => {});
    }
  }

  #draw(reply) {
    const parts = partsOf(reply.plan, reply.needed_bytes);
    this.#most = Math.max(this.#most, Math.ceil(reply.needed_bytes * 1.25));
    const shown = Math.min(reply.budget_bytes, Math.max(this.#most, reply.needed_bytes));
    drawBar(parts, Math.max(shown, reply.needed_bytes));
    drawParts(parts);
    const now = reply.memory === null ? "" : ` In use now: ${size(reply.memory.anonymous_bytes)}, beside mapped files.`;
    byId("plan-summary").textContent = `${size(reply.needed_bytes)} planned of ${size(reply.budget_bytes)} allowed.${now}`;
    byId("plan-given-up").replaceChildren(...reply.plan.given_up.map((step) => {
      const item = document.createElement("li");
      item.textContent = `given up: ${step.step}, ${step.change}`;
      return item;
    }));
    const slider = byId("budget");
    Object.assign(slider, { min: reply.smallest_budget_bytes, max: this.#most, disabled: false });
    slider.value = Math.min(reply.budget_bytes, this.#most);
    this.#showBudget(reply.budget_bytes);
  }

  #showBudget(bytes) {
    byId("budget-shown").textContent = size(bytes);
    byId("budget").setAttribute("aria-valuetext", size(bytes));
  }
}

// The parts of the plan that users know, in bytes; together they are what the plan needs.
function partsOf(plan, needed) {
  const [target, ...drafters] = plan.levels.map((level) => level.footprint.parts);
  const of = (name) => sum(target.filter((part) => part.name === name));
  const isLibrary = (part) => ["Python and libraries", "application"].includes(part.name);
  const libraries = sum(plan.process.parts.filter(isLibrary));
  const kept = of("kept conversations");
  const working = sum(plan.process.parts) - libraries + sum(target) - of("weights") - of("KV cache") - kept;
  const parts = [
    ["target: weights", of("weights")],
    ["target: KV cache", of("KV cache")],
    ["drafters", sum(drafters.flat())],
    ["kept conversations", kept],
    ["working memory", working],
    ["Python, libraries, server", libraries],
  ].map(([name, bytes], index) => ({ name, bytes, className: `part-${index}` }));
  const rest = needed - parts.reduce((total, part) => total + part.bytes, 0);
  return [...parts, { name: "margin", bytes: Math.max(rest, 0), className: "part-6" }].filter((part) => part.bytes > 0);
}

function drawBar(parts, whole) {
  const bar = byId("plan-bar");
  bar.replaceChildren(...parts.map((part) => {
    const span = document.createElement("span");
    span.className = part.className;
    span.title = `${part.name}: ${size(part.bytes)}`;
    span.style.width = `${(100 * part.bytes) / whole}%`;
    return span;
  }));
  bar.setAttribute("aria-label", parts.map((part) => `${part.name} ${size(part.bytes)}`).join(", "));
}

function drawParts(parts) {
  byId("plan-parts").replaceChildren(...parts.map((part) => {
    const item = document.createElement("li");
    const [swatch, name, bytes] = ["swatch", "name", "bytes"].map((className) => {
      const span = document.createElement("span");
      span.className = className;
      return span;
    });
    swatch.classList.add(part.className);
    name.textContent = part.name;
    bytes.textContent = size(part.bytes);
    item.append(swatch, name, bytes);
    return item;
  }));
}

function sum(parts) {
  return parts.reduce((total, part) => total + part.anonymous + part.hot, 0);
}

function size(bytes) {
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}
