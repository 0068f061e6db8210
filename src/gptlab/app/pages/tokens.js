// Texts as tokens that can be chosen. What a model writes becomes text of elements, never HTML.

export const quoted = (text) => JSON.stringify(text);

export function share(element, part) {
  element.style.setProperty("--share", `${Math.round(1000 * Math.min(1, Math.max(0, part))) / 10}%`);
}

// The colour of a surprise is full from 10 nats on, as on the other pages.
function tokenElement(token) {
  const span = document.createElement("span");
  span.className = token.given ? "token given" : "token";
  span.classList.toggle("line", /^\n+$/.test(token.text));
  span.textContent = token.text;
  span.tabIndex = -1;
  if (token.nats !== null) {
    share(span, token.nats / 10);
    span.title = `${token.nats.toFixed(2)} nats`;
  }
  return span;
}

// A text that grows. `chosen(at)` is called with the position of a token; the one behind the last is what may come next.
export class TokenText {
  constructor(element, chosen) {
    this.element = element;
    this.tokens = [];
    this.ended = false; // by the model or its limit, not by a stop
    this.hidden = 0; // tokens before the first that is shown: a chat does not show its template
    this.chosen = chosen;
    element.setAttribute("role", "group");
    element.addEventListener("click", (event) => this.#choose(event.target));
    element.addEventListener("focusin", (event) => this.#choose(event.target));
    element.addEventListener("keydown", (event) => this.#key(event));
  }

  add(token) {
    this.tokens.push(token);
    if (token.hidden) {
      this.hidden = this.tokens.length;
      return;
    }
    const span = tokenElement(token);
    if (!this.element.firstChild) span.tabIndex = 0;
    this.element.append(span);
  }

  end(rest) {
    if (rest && this.tokens.length) {
      this.tokens.at(-1).text += rest;
      if (this.element.lastChild) this.element.lastChild.textContent += rest;
    }
    const next = document.createElement("span");
    next.className = "token next";
    next.title = "what may come next";
    next.tabIndex = this.element.firstChild ? -1 : 0;
    this.element.append(next);
  }

  mark(at) {
    for (const each of document.querySelectorAll(".token.chosen")) each.classList.remove("chosen");
    const span = this.element.children[at - this.hidden];
    if (!span) return false;
    for (const each of this.element.children) each.tabIndex = -1;
    span.tabIndex = 0;
    span.classList.add("chosen");
    return true;
  }

  #choose(target) {
    const at = [...this.element.children].indexOf(target);
    if (at >= 0 && !target.classList.contains("chosen")) this.chosen(at + this.hidden);
  }

  #key(event) {
    const spans = [...this.element.children];
    const at = spans.indexOf(event.target);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: spans.length - 1 }[event.key];
    if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    spans[Math.min(spans.length - 1, Math.max(0, to))].focus();
  }
}
