// The server: its key, its errors, and events out of a stream.

const KEY = "quire-key";
const MAX_EVENT = 16 << 20;

/** The server wants a key, or another one. */
export class Unauthorized extends Error {}

/** The key of this tab: gone when it is closed. */
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (text) => (text ? sessionStorage.setItem(KEY, text) : sessionStorage.removeItem(KEY)),
};

/** Asks the server; an answer that is no success becomes an error with the server's own words. */
export async function ask(path, { body, signal } = {}) {
  const headers = {};
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  const options = { headers, signal, cache: "no-store", credentials: "omit" };
  if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  }
  const response = await fetch(path, options);
  if (response.ok) return response;
  const text = (await response.text()).slice(0, 4000);
  if (response.status === 401) throw new Unauthorized("this server asks for a key");
  throw new Error(`${response.status}: ${message(text) || response.statusText}`);
}

function message(text) {
  try {
    return JSON.parse(text).error.message;
  } catch {
    return text;
  }
}

/** The data of each server-sent event. Comments and other fields say nothing here. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    if (rest.length > MAX_EVENT) throw new Error("an event of the stream is too long");
    if (!value.includes("\n")) continue;
    const lines = rest.split("\n");
    rest = lines.pop();
    for (const line of lines.map((line) => line.replace(/\r$/, ""))) {
      if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
      if (line === "" && data.length > 0) {
        yield data.join("\n");
        data = [];
      }
    }
  }
}
