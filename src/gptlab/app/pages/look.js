// What is shown of the token that is chosen: the bars of what was likely, and attention.
import { ask } from "./server.js";
import { quoted, share } from "./tokens.js";

const by = (id) => document.getElementById(id);
const percent = (part) => `${(100 * part).toFixed(1)}%`;
let asked = 0;

// A bar of the same scale as all others: the largest of them is full.
function cell(row, part, largest, after) {
  const bar = document.createElement("div");
  const line = document.createElement("i");
  bar.className = after ? "bar after" : "bar";
  share(line, part / largest);
  bar.append(line, percent(part));
  row.insertCell().append(bar);
}

function showBars(next, token) {
  by("bars").hidden = !next;
  by("figures").textContent = next ? "" : "Nothing stands before it, so nothing was likely in its place.";
  if (!next) return;
  const figures = [`entropy ${next.entropy.toFixed(2)} nats`];
  if (next.rank) figures.unshift(`surprise ${next.nats.toFixed(2)} nats`, `rank ${next.rank}`);
  figures.push(next.searched ? "a search draws nothing" : `${next.kept} of ${next.of} tokens can be drawn`);
  by("figures").textContent = figures.join(" · ");
  const body = by("bars").tBodies[0];
  body.replaceChildren();
  const largest = Math.max(...next.alternatives.flatMap((bar) => [bar.raw, bar.final]));
  for (const bar of next.alternatives) {
    const row = body.insertRow();
    row.className = token && bar.token === token.id ? "chosen" : "";
    const name = row.insertCell();
    name.className = "name";
    name.textContent = quoted(bar.text);
    cell(row, bar.raw, largest, false);
    if (next.searched) row.insertCell();
    else cell(row, bar.final, largest, true);
  }
}

function fill(select, number) {
  if (select.options.length === number + 1) return;
  const before = select.value;
  const choices = [new Option("mean of all", "")];
  for (let n = 0; n < number; n++) choices.push(new Option(`${n + 1} of ${number}`, `${n}`));
  select.replaceChildren(...choices);
  select.value = before;
  if (select.selectedIndex < 0) select.value = "";
}

function showAttention(found, tokens, at) {
  by("attention").hidden = !found;
  if (!found) return;
  fill(by("layer"), found.layers);
  fill(by("head"), found.heads);
  const to = by("way").value === "to";
  const weights = to ? found.to : found.by;
  const seen = weights.map((weight, n) => ({ weight, at: found.first + n, text: tokens[found.first + n].text }))
    .filter((each) => (to ? each.at <= at : each.at >= at)); // no token attends to later ones
  const order = [...seen].sort((a, b) => b.weight - a.weight || a.at - b.at);
  by("weights").replaceChildren(...seen.map((each) => {
    const span = document.createElement("span");
    span.className = each.at === at ? "weight chosen" : "weight";
    span.textContent = each.text;
    span.title = percent(each.weight);
    share(span, each.weight / order[0].weight);
    return span;
  }));
  const names = order.slice(0, 5).map((each) => `${quoted(each.text || "·")} ${percent(each.weight)}`);
  by("most").textContent = `The most: ${names.join(", ")}`;
}

const chosenPart = (select) => (select.value === "" ? null : Number(select.value));

// What is chosen here, for a link; `choose` takes it back.
export function choice() {
  return { way: by("way").value, layer: chosenPart(by("layer")), head: chosenPart(by("head")) };
}

export function choose({ way, layer, head }) {
  by("way").value = way === "by" ? "by" : "to";
  for (const [id, value] of Object.entries({ layer, head })) {
    const name = Number.isInteger(value) ? `${value}` : "";
    const select = by(id);
    if (![...select.options].some((each) => each.value === name)) select.append(new Option(`${value + 1}`, name));
    select.value = name;
  }
}

// Shows a token of a text; a later call wins over one that is still waited for.
export async function look(run, tokens, at, decoding) {
  const mine = ++asked;
  const { layer, head } = choice();
  const body = { run, ids: tokens.map((token) => token.id), at, layer, head, ...decoding };
  const found = await ask("/look", body);
  if (mine !== asked) return;
  const before = tokens.slice(Math.max(0, at - 8), at).map((token) => token.text).join("");
  const what = at < tokens.length ? quoted(tokens[at].text) : "what comes next";
  by("look-title").textContent = before ? `${what} after ${quoted(before)}` : what;
  showBars(found.next, tokens[at]);
  showAttention(found.attention, tokens, at);
  by("look").hidden = false;
  by("seen").classList.add("looked");
}

export function hide() {
  asked++;
  by("look").hidden = true;
  by("seen").classList.remove("looked");
}
