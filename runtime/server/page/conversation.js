// The messages of a conversation, without a page: what is sent, and what comes back.

export class Conversation {
  messages = [];
  #attempts = 0;

  // Messages before the latest change, and what was typed for it: both come back if it gets no answer.
  #before = [];
  #typed = "";

  say(text) {
    return this.edit(this.messages.length, text);
  }

  // `text` in place of the user's message at `place`, and an answer to it; later messages are gone.
  edit(place, text) {
    this.#keep(text);
    this.messages = [...this.messages.slice(0, place), { role: "user", content: text }];
    this.#attempts = 0;
    return this.#begin();
  }

  // A new answer in place of the latest.
  regenerate() {
    this.#keep("");
    if (this.messages.at(-1)?.role === "assistant") this.messages.pop();
    this.#attempts += 1;
    return this.#begin();
  }

  // Takes back the latest change, which got no answer; returns what was typed for it.
  takeBack() {
    this.messages = this.#before;
    return this.#typed;
  }

  #keep(typed) {
    this.#before = [...this.messages];
    this.#typed = typed;
  }

  #begin() {
    const answer = { role: "assistant", content: "", reasoning: "", pieces: [], timings: null, finish: null };
    this.messages.push(answer);
    return answer;
  }

  // The body of the request for the latest answer.
  request(model, settings) {
    const { system, seed, ...rest } = settings;
    const sent = this.messages.slice(0, -1).map(({ role, content }) => ({ role, content }));
    if (system) sent.unshift({ role: "system", content: system });
    // Another answer is drawn with another seed.
    const own = seed === undefined ? crypto.getRandomValues(new Uint32Array(1))[0] : seed + this.#attempts;
    return { model, messages: sent, seed: own, stream: true, token_sources: true, ...rest };
  }
}

// Adds a chunk of the stream to the answer.
export function addChunk(answer, chunk) {
  answer.timings = chunk.timings ?? answer.timings;
  const [choice] = chunk.choices;
  if (choice === undefined) return;
  const { content, reasoning_content: reasoning } = choice.delta;
  answer.finish = choice.finish_reason ?? answer.finish;
  answer.reasoning += reasoning ?? "";
  if (content) {
    answer.content += content;
    answer.pieces.push(...(choice.token_sources ?? [{ text: content, source: "target" }]));
  }
}

// What the timings say, in words; empty before the end.
export function describe(answer) {
  const { timings, finish } = answer;
  if (timings === null) return [];
  const parts = [`${timings.predicted_per_second.toFixed(1)} tokens/s`];
  if (timings.draft_n) {
    const share = Math.round((100 * timings.draft_n_accepted) / timings.draft_n);
    parts.push(`accepted ${timings.draft_n_accepted} of ${timings.draft_n} drafted (${share}%)`);
  }
  parts.push(timings.predicted_n === 1 ? "1 token" : `${timings.predicted_n} tokens`);
  parts.push(`${timings.cache_n} of ${timings.cache_n + timings.prompt_n} prompt tokens cached`);
  if (finish === "length") parts.push("ended at the limit");
  return parts;
}
