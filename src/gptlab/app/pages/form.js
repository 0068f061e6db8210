// The fields of the page: which run, which decoder, and a slider for each of its settings.

const by = (id) => document.getElementById(id);
let site = { runs: [], decoders: {} };

function slider(setting, number) {
  const range = document.createElement("input");
  Object.assign(range, { type: "range", min: setting.least, max: setting.most, step: setting.step });
  range.value = number.value;
  range.setAttribute("aria-label", setting.name);
  range.addEventListener("input", () => (number.value = range.value));
  number.addEventListener("input", () => (range.value = number.value));
  const both = document.createElement("div");
  both.className = "slider";
  both.append(range, number);
  return both;
}

function settingField(setting, value) {
  const label = document.createElement("label");
  const input = document.createElement("input");
  input.id = `setting-${setting.name}`;
  input.dataset.kind = setting.kind;
  label.append(setting.name.replaceAll("_", " "));
  label.title = setting.about;
  if (setting.kind === "bool") {
    input.type = "checkbox";
    input.checked = value;
    label.append(" ", input);
  } else if (setting.kind === "str") {
    input.value = value;
    label.append(input);
  } else {
    Object.assign(input, { type: "number", step: setting.kind === "int" ? 1 : "any", required: true });
    input.value = value;
    label.append(slider(setting, input));
  }
  return label;
}

// Shows the settings of the decoder that is chosen; those that have a value keep it.
export function showSettings(values = settings()) {
  const decoder = site.decoders[by("decoder").value];
  by("decoder-about").textContent = decoder.about;
  by("settings").replaceChildren(
    ...decoder.settings.map((each) => settingField(each, values[each.name] ?? each.usual)));
}

function settings() {
  const found = {};
  for (const input of by("settings").querySelectorAll("[data-kind]")) {
    const { kind } = input.dataset;
    const value = kind === "bool" ? input.checked : kind === "str" ? input.value : input.valueAsNumber;
    found[input.id.slice("setting-".length)] = value;
  }
  return found;
}

// What a token is drawn by, as the server is asked for it.
export function decoding() {
  return { decoder: by("decoder").value, settings: settings() };
}

// All that the fields say of a text.
export function turn() {
  return {
    ...decoding(),
    prompt: by("prompt").value,
    system: inChat() && by("system").value ? by("system").value : null,
    seed: by("seed").valueAsNumber,
    max_new_tokens: by("max_new_tokens").valueAsNumber,
  };
}

export function fillIn(values) {
  if (!(values.decoder in site.decoders)) throw new Error(`decoder=${values.decoder}: is not known here`);
  by("decoder").value = values.decoder;
  showSettings(values.settings);
  by("prompt").value = values.prompt;
  by("system").value = values.system ?? "";
  by("seed").value = values.seed;
  by("max_new_tokens").value = values.max_new_tokens;
}

export const inChat = () => by("mode").value === "chat";
export const runs = () => [by("run").value, by("beside").value].filter(Boolean);

export function chooseRuns(names, chat) {
  for (const name of names) {
    if (!site.runs.some((each) => each.name === name)) throw new Error(`run=${name}: is not served here`);
  }
  by("run").value = names[0];
  by("beside").value = names[1] ?? "";
  by("mode").value = chat ? "chat" : "";
  showMode();
}

// A chat needs a template in each of the runs.
export function showMode() {
  const can = runs().every((name) => site.runs.find((each) => each.name === name).chat);
  const [, chat] = by("mode").options;
  chat.disabled = !can;
  if (!can) by("mode").value = "";
  by("system-field").hidden = by("new").hidden = !inChat();
  by("prompt").placeholder = inChat() ? "what you say" : "what is continued";
}

export function begin(found) {
  site = found;
  for (const { name } of site.runs) {
    by("run").append(new Option(name, name));
    by("beside").append(new Option(name, name));
  }
  for (const name of Object.keys(site.decoders)) by("decoder").append(new Option(name, name));
  by("decoder").value = "top_k";
  by("mode").value = site.runs[0].chat ? "chat" : "";
  by("beside").value = site.runs.length > 1 ? site.runs[1].name : "";
  if (!inChat()) by("prompt").value = site.runs[0].prompts[0] ?? "";
  showMode();
  showSettings({});
  by("decoder").addEventListener("change", () => showSettings());
}
