// Puts the page together: theme, key, model, keyboard, and what it says of the server.

import { key } from "./api.js";
import { Chat } from "./chat.js";
import { EngineView } from "./engine.js";
import { setText } from "./text.js";

const byId = (id) => document.getElementById(id);
const THEMES = { "": "dark", dark: "light", light: "" };
const THEME_NAMES = { "": "system", dark: "dark", light: "light" };

const say = (text) => setText(byId("status"), text);

const chat = new Chat({ model, say, onUnauthorized: askForKey });
const engine = new EngineView({
  model,
  on: { state: showState, gone: showGone, restarted: showRestarted, unauthorized: askForKey },
});

function model() {
  return byId("model").value || "default";
}

function showState(state) {
  health(state.health, state.health === "ready" ? "good" : "bad");
  byId("health").title = `Quire ${state.version}`;
  if (byId("notice").dataset.kind === "gone") {
    notice("again", "The server answers again.");
    setTimeout(() => byId("notice").dataset.kind === "again" && notice("", ""), 4000);
  }
  const names = state.models.map((own) => own.name);
  const options = [...byId("model").options].map((option) => option.value);
  if (JSON.stringify(names) !== JSON.stringify(options)) {
    const chosen = byId("model").value;
    byId("model").replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
  }
  if (state.model) chat.setDefaults(state.model);
  byId("send").disabled = state.model?.generates === false;
}

function showGone(error) {
  health("not reachable", "bad");
  // The chosen model is no longer served.
  if (error.message.startsWith("404")) byId("model").selectedIndex = -1;
  const why = error.name === "TypeError" ? "The server does not answer" : `The server does not answer as it should (${error.message})`;
  notice("gone", `${why}. Trying again; numbers are those of the last answer.`);
}

function showRestarted() {
  notice("restarted", "The server was restarted: its counters begin anew, the chat goes on.");
  say("The server was restarted");
}

function health(text, kind) {
  setText(byId("health"), text);
  byId("health").className = `chip ${kind}`;
}

function notice(kind, text) {
  if (byId("notice").dataset.kind === kind && byId("notice-text").textContent === text) return;
  byId("notice").dataset.kind = kind;
  setText(byId("notice-text"), text);
  byId("notice").hidden = !text;
}

function askForKey() {
  health("locked", "bad");
  notice("key", "");
  byId("key-hint").textContent = key.get() ? "The server does not know this key." : "This server asks for a key.";
  if (!byId("key-dialog").open) openKeyDialog();
}

function openKeyDialog() {
  byId("key").value = key.get();
  byId("key-dialog").showModal();
  byId("key").focus();
}

function saveKey(event) {
  event.preventDefault();
  key.set(byId("key").value.trim());
  byId("key-dialog").close();
  engine.forget();
}

function setTheme(theme) {
  const root = document.documentElement;
  if (theme) root.dataset.theme = theme;
  else delete root.dataset.theme;
  try {
    localStorage.setItem("quire-theme", theme);
  } catch {
    // Storage may be forbidden: the theme lasts as long as the page.
  }
  byId("theme").setAttribute("aria-label", `Theme: ${THEME_NAMES[theme]}`);
  byId("theme").title = `Theme: ${THEME_NAMES[theme]} (t)`;
  engine.redraw();
}

const nextTheme = () => setTheme(THEMES[document.documentElement.dataset.theme ?? ""]);

/** On a narrow page one of the two is seen. */
function show(view) {
  document.body.dataset.view = view;
  for (const name of ["chat", "engine"]) {
    byId(`show-${name}`).setAttribute("aria-pressed", String(name === view));
  }
  engine.redraw();
}

const SHORTCUTS = {
  "/": () => (show("chat"), byId("prompt").focus()),
  n: () => (show("chat"), chat.clear()),
  e: () => (show("engine"), byId("engine").focus()),
  p: () => (show("chat"), toggleParameters()),
  t: nextTheme,
  k: openKeyDialog,
  "?": () => byId("help").showModal(),
};

function toggleParameters() {
  const details = byId("parameters");
  details.open = !details.open;
  details.querySelector("summary").focus();
}

document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "Escape" && chat.isRunning) {
    chat.stop();
    return;
  }
  const isTyped = event.target.closest("input, textarea, select");
  if (isTyped || event.ctrlKey || event.metaKey || event.altKey || !byId("single-keys").checked) return;
  const action = SHORTCUTS[event.key];
  if (!action) return;
  event.preventDefault();
  action();
});

byId("theme").addEventListener("click", nextTheme);
byId("open-help").addEventListener("click", () => byId("help").showModal());
byId("open-key").addEventListener("click", openKeyDialog);
byId("key-form").addEventListener("submit", saveKey);
byId("dismiss").addEventListener("click", () => notice("", ""));
byId("model").addEventListener("change", () => engine.forget());
for (const name of ["chat", "engine"]) {
  byId(`show-${name}`).addEventListener("click", () => show(name));
}
for (const button of document.querySelectorAll("dialog .close")) {
  button.addEventListener("click", () => button.closest("dialog").close());
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => engine.redraw());
byId("theme").setAttribute("aria-label", `Theme: ${THEME_NAMES[document.documentElement.dataset.theme ?? ""]}`);
