// The playground: it writes in one or two panes, and keeps a link to all that is seen.
import * as form from "./form.js";
import { fromHash, toHash } from "./link.js";
import * as looking from "./look.js";
import { element, Pane } from "./pane.js";
import { share } from "./tokens.js";

const by = (id) => document.getElementById(id);
let seen = { runs: [], chat: false, turns: [] };
let panes = [];
let chosen = null; // {pane, turn, at}
let stop = null; // stops what is being written
let work = Promise.resolve(); // what is done one after the other
let later = null;

function say(line, wrong = false) {
  by("status").textContent = line;
  by("status").classList.toggle("wrong", wrong);
}

function begin(runs, chat) {
  seen = { runs, chat, turns: [] };
  chosen = null;
  looking.hide();
  panes = runs.map((run, pane) => new Pane(run, (turn, at) => choose({ pane, turn, at }), say));
  by("panes").replaceChildren(...panes.map((pane) => pane.element));
}

// Writes a turn in all panes at once, with the same draws; a mistake in one of them takes it back. Returns whether it was
// stopped; the turn then says after how many tokens of each pane.
async function write(turn) {
  const controller = new AbortController();
  stop = () => controller.abort();
  by("stop").disabled = false;
  by("write").disabled = true;
  say("");
  const settled = await Promise.allSettled(panes.map((pane, n) =>
    pane.write(turn, seen.turns, seen.chat, turn.cut[n] ?? Infinity, controller.signal)));
  by("stop").disabled = true;
  by("write").disabled = false;
  stop = null;
  const failed = settled.find((each) => each.status === "rejected");
  if (failed) {
    for (const pane of panes) pane.drop(seen.turns.length);
    throw failed.reason;
  }
  seen.turns.push({ ...turn, cut: settled.map((each) => each.value) });
  by("legend").hidden = false;
  return controller.signal.aborted;
}

async function submit() {
  const [runs, chat] = [form.runs(), form.inChat()];
  const goesOn = chat && seen.chat && seen.turns.length > 0 && `${seen.runs}` === `${runs}`;
  if (!goesOn) begin(runs, chat);
  await write({ ...form.turn(), cut: [] });
  if (chat) by("prompt").value = "";
  if (!chosen) await choose(first());
  keepLink();
}

// The first token that was written, or what may come next.
function first() {
  const turn = panes[0].turns.length - 1;
  const { tokens } = panes[0].turns[turn].text;
  const at = tokens.findIndex((token) => !token.given);
  return { pane: 0, turn, at: at < 0 ? tokens.length : at };
}

async function choose(place) {
  const text = panes[place.pane]?.turns[place.turn]?.text;
  if (!text || !text.mark(place.at)) return;
  chosen = place;
  await lookAgain();
}

async function lookAgain() {
  if (!chosen) return;
  const pane = panes[chosen.pane];
  try {
    await looking.look(pane.run, pane.turns[chosen.turn].text.tokens, chosen.at, form.decoding());
    keepLink();
  } catch (error) {
    say(error.message, true);
  }
}

function keepLink() {
  if (!seen.turns.length) return;
  const hash = toHash({ ...seen, form: form.turn(), look: chosen && { ...chosen, ...looking.choice() } });
  history.replaceState(null, "", location.pathname + hash); // without the token, which is in a cookie
  by("link").href = hash;
}

function copyLink(event) {
  event.preventDefault();
  keepLink();
  const copied = navigator.clipboard?.writeText(location.href) ?? Promise.reject();
  copied.then(() => say("The link is copied."), () => say("The link is the address of this page."));
}

// Shows what a link says: its texts are written again, by the same draws.
async function openLink() {
  const link = fromHash(location.hash);
  if (!link) return;
  form.chooseRuns(link.runs, link.chat);
  begin(link.runs, link.chat);
  for (const turn of link.turns) {
    form.fillIn(turn);
    if (await write(turn)) return;
  }
  form.fillIn(link.form);
  if (link.look) {
    looking.choose(link.look);
    await choose(link.look);
  }
  keepLink();
}

// Does something after what is being done; a mistake is shown.
function next(what) {
  work = work.then(what).catch((error) => say(error.message, true));
}

function keys(event) {
  if (event.key === "Escape") stop?.();
  const sends = event.ctrlKey || event.metaKey || (form.inChat() && !event.shiftKey);
  if (event.target !== by("prompt") || event.key !== "Enter" || !sends || event.isComposing) return;
  event.preventDefault();
  by("ask").requestSubmit();
}

function lookSoon() {
  clearTimeout(later);
  later = setTimeout(lookAgain, 80);
}

function listen() {
  by("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!stop) next(submit);
  });
  document.addEventListener("keydown", keys);
  by("stop").addEventListener("click", () => stop?.());
  by("new").addEventListener("click", () => {
    stop?.();
    next(() => begin(form.runs(), form.inChat()));
  });
  for (const id of ["run", "beside", "mode"]) by(id).addEventListener("change", form.showMode);
  for (const id of ["settings", "decoder"]) by(id).addEventListener("input", lookSoon);
  for (const id of ["way", "layer", "head"]) by(id).addEventListener("change", lookAgain);
  by("link").addEventListener("click", copyLink);
  window.addEventListener("hashchange", () => {
    stop?.();
    next(openLink);
  });
}

function showScale() {
  for (const nats of [0, 2, 4, 6, 8, 10]) {
    const step = element("span", "", `${nats}`);
    share(step, nats / 10);
    document.querySelector(".scale").append(step);
  }
}

showScale();
listen();
next(async () => {
  form.begin(await (await fetch("/site")).json());
  await openLink();
});
