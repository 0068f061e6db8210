// Keys for the page of a question: buttons name theirs in data-keys; digits score one criterion after the other.
"use strict";
const form = document.getElementById("answer");
const fields = form ? [...form.querySelectorAll("fieldset")] : [];
let sent = false;
let at = 0;

function mark() {
  fields.forEach((field, index) => field.classList.toggle("now", index === at));
}

function score(event) {
  if (event.key === "Backspace") {
    at = Math.max(0, at - 1);
    event.preventDefault();
  } else {
    const button = fields[at]?.querySelector(`input[value="${CSS.escape(event.key)}"]`);
    if (!button) return;
    button.checked = true;
    button.focus();
    at = Math.min(fields.length - 1, at + 1);
  }
  mark();
}

if (form) {
  mark();
  form.addEventListener("submit", (event) => {
    if (sent) event.preventDefault();
    sent = true;
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const button = [...form.querySelectorAll("button[data-keys]")].find((each) =>
      each.dataset.keys.split(" ").includes(event.key));
    if (button) {
      event.preventDefault();
      button.click();
    } else if (fields.length) {
      score(event);
    }
  });
}
