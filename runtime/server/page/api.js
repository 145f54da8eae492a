// Talks to the server that this page came from, and to nobody else.

const KEY = "pocketspec-api-key";

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export function setKey(key) {
  sessionStorage.setItem(KEY, key);
}

export async function getModels() {
  return (await (await request("/v1/models")).json()).data;
}

export async function getPlan(model) {
  return (await request(`/v1/plan?model=${encodeURIComponent(model)}`)).json();
}

export async function putBudget(model, bytes) {
  const body = JSON.stringify({ model, budget_bytes: bytes });
  return (await request("/v1/plan", { method: "PUT", body })).json();
}

// The chunks of a streamed answer, as the server sends them.
export async function* streamChat(body, signal) {
  const response = await request("/v1/chat/completions", { method: "POST", body: JSON.stringify(body), signal });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(chunk.error.message, 500);
    yield chunk;
  }
  throw new ApiError("the server ended the answer in the middle", 0);
}

async function request(path, options = {}) {
  const headers = { "content-type": "application/json" };
  const key = sessionStorage.getItem(KEY);
  if (key) headers.authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store", redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("the server cannot be reached; is it still running?", 0);
  }
  if (response.ok) return response;
  const reply = await response.json().catch(() => ({}));
  throw new ApiError(reply.error?.message ?? `the server answered ${response.status}`, response.status);
}

// The data of server-sent events; each ends with an empty line.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (held + value).split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      if (part.startsWith("data: ")) yield part.slice("data: ".length);
    }
  }
}
