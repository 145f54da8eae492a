// The page: what is typed goes to the server, what it answers is shown.

import { ApiError, getModels, setKey, streamChat } from "./api.js";
import { addChunk, Conversation } from "./conversation.js";
import { Log } from "./log.js";
import { PlanPanel } from "./plan.js";
import { isColoured, readSettings } from "./settings.js";

const byId = (id) => document.getElementById(id);
const prompt = byId("prompt");
const log = new Log(byId("log"));
const plan = new PlanPanel((error) => showError(error));
let conversation = new Conversation();
let running = null;

async function start() {
  try {
    const models = await withKey(getModels);
    byId("model").replaceChildren(...models.map((model) => new Option(model.id, model.id)));
    byId("model-choice").hidden = models.length < 2;
    byId("model-name").textContent = models.length < 2 ? models[0].id : "";
    await showPlan();
  } catch (error) {
    showError(error);
  }
  prompt.focus();
}

// Answers what `begin` adds to the conversation, unless a setting is out of its range: then nothing changes.
async function answer(begin) {
  let settings;
  try {
    settings = readSettings();
  } catch (error) {
    showError(error);
    return;
  }
  showError(null);
  const own = conversation;
  const message = begin();
  running = new AbortController();
  showAll();
  log.scrollToEnd();
  try {
    const body = own.request(byId("model").value, settings);
    await withKey(() => receive(message, body));
    byId("status").textContent = "The answer is complete.";
  } catch (error) {
    if (error.name !== "AbortError") showError(error);
    byId("status").textContent = "The answer was stopped.";
    if (!message.content && !message.reasoning) {
      const taken = own.takeBack();
      prompt.value ||= taken;
    }
  }
  if (own !== conversation) return;
  running = null;
  showAll();
  fit();
  prompt.focus();
  showPlan().catch(() => {});
}

async function receive(message, body) {
  const { signal } = running;
  let cost = 0;
  let timer = null;
  const draw = () => {
    timer = null;
    const began = performance.now();
    log.update(message, true, null);
    cost = performance.now() - began;
  };
  try {
    for await (const chunk of streamChat(body, signal)) {
      addChunk(message, chunk);
      // A long answer takes longer to draw; at most a quarter of the time goes into that.
      timer ??= setTimeout(draw, Math.max(16, 3 * cost));
    }
  } finally {
    clearTimeout(timer);
  }
}

// Runs `act`; where the server wants a key, asks for one and runs it again.
async function withKey(act) {
  for (;;) {
    try {
      return await act();
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 401) throw error;
      setKey(await askForKey());
    }
  }
}

function askForKey() {
  const dialog = byId("key-dialog");
  byId("key").value = "";
  dialog.showModal();
  return new Promise((resolve, reject) => {
    dialog.addEventListener("close", () => {
      const key = byId("key").value;
      byId("key").value = "";
      if (key) resolve(key);
      else reject(new Error("this server asks for a key; reload the page to give one"));
    }, { once: true });
  });
}

function showAll() {
  const isGoing = running !== null;
  log.show(conversation.messages, {
    coloured: isColoured(),
    isGoing,
    regenerate: () => answer(() => conversation.regenerate()),
    edit: (place, text) => answer(() => conversation.edit(place, text)),
  });
  byId("log").setAttribute("aria-busy", String(isGoing));
  byId("send").hidden = isGoing;
  byId("stop").hidden = !isGoing;
  if (isGoing) byId("status").textContent = "";
}

function showPlan() {
  return withKey(() => plan.show(byId("model").value));
}

function showError(error) {
  byId("error").hidden = error === null;
  byId("error").textContent = error === null ? "" : error.message;
}

// The field grows with its text.
function fit() {
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight + 2}px`;
}

function send() {
  const text = prompt.value;
  if (running !== null || !text.trim()) return;
  answer(() => {
    prompt.value = "";
    fit();
    return conversation.say(text);
  });
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
prompt.addEventListener("input", fit);
prompt.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
byId("stop").addEventListener("click", () => running?.abort());
byId("new-chat").addEventListener("click", () => {
  running?.abort();
  running = null;
  conversation = new Conversation();
  showError(null);
  showAll();
  prompt.focus();
});
byId("coloured").addEventListener("change", showAll);
byId("model").addEventListener("change", () => showPlan().catch(showError));
const toggle = byId("panel-toggle");
const openPanel = (isOpen) => {
  byId("panel").classList.toggle("open", isOpen);
  toggle.setAttribute("aria-expanded", String(isOpen));
};
toggle.addEventListener("click", () => openPanel(!byId("panel").classList.contains("open")));
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (byId("panel").classList.contains("open")) {
    openPanel(false);
    toggle.focus();
  } else running?.abort();
});

start();
