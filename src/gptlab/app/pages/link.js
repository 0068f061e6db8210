// A link holds all that is seen, as JSON behind the #: it never reaches the server, and names runs, not places.

export function toHash(seen) {
  return "#" + encodeURIComponent(JSON.stringify(seen));
}

// Returns what a link says, or null where there is nothing to be seen. Values go into fields and requests, never into HTML.
export function fromHash(hash) {
  if (hash.length < 2) return null;
  try {
    const { runs, chat, turns, form, look } = JSON.parse(decodeURIComponent(hash.slice(1)));
    const some = runs.length > 0 && turns.every((turn) => turn.settings && Array.isArray(turn.cut)) && form.settings;
    if (some) return { runs: runs.slice(0, 2), chat: chat === true, turns, form, look };
  } catch {
    // said below
  }
  throw new Error("This link is damaged: copy it again.");
}
