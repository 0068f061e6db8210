// One run, and what it has written: a text, or the answers of a chat.
import { events } from "./server.js";
import { TokenText } from "./tokens.js";

export function element(name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

export class Pane {
  // `chosen(turn, at)` is called with a token that is chosen, `say(line)` with what should be known besides.
  constructor(run, chosen, say) {
    this.run = run;
    this.chosen = chosen;
    this.say = say;
    this.turns = []; // {parts, text, answer}: elements, tokens, and what was written
    this.element = document.createElement("section");
    this.element.append(element("h2", "", run));
  }

  // Writes a turn after earlier ones, until `stopped`, or until `limit` tokens are there. Returns how many were written
  // where it was stopped, else null.
  async write(turn, earlier, chat, limit, stopped) {
    const number = this.turns.length;
    const [shown, told] = [element("p", "text"), element("p", "hint", "reading")];
    const parts = chat ? [element("p", "user", turn.prompt), shown, told] : [shown, told];
    const text = new TokenText(shown, (at) => this.chosen(number, at));
    const made = { parts, text, answer: "" };
    const said = chat ? earlier.flatMap((each, n) => [each.prompt, this.turns[n].answer]) : [];
    this.turns.push(made);
    this.element.append(...parts);
    const { cut, ...asked } = turn;
    const written = await this.#follow({ ...asked, run: this.run, chat, said }, made, told, limit, stopped);
    if (text.ended) return null;
    told.textContent = `stopped after ${written} tokens`;
    text.end("");
    return written;
  }

  async #follow(asked, made, told, limit, stopped) {
    const { text } = made;
    let written = 0;
    try {
      for await (const event of events("/write", asked, stopped)) {
        for (const token of event.given ?? []) text.add({ ...token, given: true, hidden: asked.chat });
        if (event.token) {
          text.add(event.token);
          made.answer += event.token.text;
          written += 1;
        }
        if (event.end) {
          text.end(event.rest);
          text.ended = true;
          made.answer += event.rest;
        }
        this.#tell(event, told, written);
        if (written >= limit) break;
      }
    } catch (error) {
      if (!stopped.aborted) throw error;
    }
    return written;
  }

  #tell(event, told, written) {
    if (event.waiting) told.textContent = "waiting for the texts of others";
    if (event.searched) told.textContent = `searching: step ${event.searched}`;
    if (event.given) told.textContent = "writing";
    if (event.end) told.textContent = `${written} tokens` + (event.end === "max_new_tokens" ? "" : `; ${event.end}`);
    if (event.unspelled) this.say(`${this.run}: ${event.unspelled} characters are not in its vocabulary`);
    if (event.forgotten) this.say(`${this.run}: its context is full, ${event.forgotten} older messages are forgotten`);
  }

  // Removes a turn, where there is one.
  drop(number) {
    for (const turn of this.turns.splice(number)) for (const part of turn.parts) part.remove();
  }
}
