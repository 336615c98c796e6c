// Text of models and clients: text nodes alone, and what cannot be seen is shown.

/** Characters of one block: a long line is laid out in pieces, or each new token would lay out all of it again. */
const MAX_BLOCK = 8192;
/** Characters of one answer that are shown. */
const MAX_SHOWN = 4_000_000;

// Control characters but tab and newline, and those that turn text around or hide it.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu;

/** `text` with a sign for each character that would act or hide instead of being read. */
export function visible(text) {
  return text.replaceAll("\r\n", "\n").replace(HIDDEN, (character) => {
    const code = character.codePointAt(0);
    if (code < 0x20) return String.fromCharCode(0x2400 + code);
    if (code === 0x7f) return "\u2421";
    return `\u27e8U+${code.toString(16).toUpperCase().padStart(4, "0")}\u27e9`;
  });
}

/** An element with a class and children; strings become text nodes. */
export function element(name, className = "", ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/** Sets text where it differs, so that nothing is laid out in vain. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A growing text. What arrives within a frame is drawn at once. */
export class TextView {
  #root;
  #node = null;
  #pending = "";
  #frame = 0;
  #shown = 0;
  #onDraw;
  /** All of it, as the model wrote it. */
  raw = "";

  constructor(root, onDraw = () => {}) {
    this.#root = root;
    this.#onDraw = onDraw;
  }

  append(text) {
    this.raw += text;
    this.#pending += text;
    this.#frame ||= requestAnimationFrame(() => this.draw());
  }

  /** Draws what has come; `isLast`: nothing follows. */
  draw(isLast = false) {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    // Half of a line's end waits for the other half.
    const waits = !isLast && this.#pending.endsWith("\r") ? 1 : 0;
    const end = this.#pending.length - waits;
    let text = visible(this.#pending.slice(0, end));
    this.#pending = this.#pending.slice(end);
    while (text) {
      const room = Math.min(this.#room(), MAX_SHOWN - this.#shown);
      if (room <= 0) {
        this.#cut();
        break;
      }
      const piece = text.slice(0, cutAt(text, room));
      this.#node.appendData(piece);
      this.#shown += piece.length;
      text = text.slice(piece.length);
    }
    this.#onDraw();
  }

  /** Characters that the last block still takes, after a new one is begun where it is full. */
  #room() {
    const length = this.#node?.length ?? MAX_BLOCK;
    const isWhole = length > MAX_BLOCK / 2 && this.#node?.data.endsWith("\n");
    if (length < MAX_BLOCK && !isWhole) return MAX_BLOCK - length;
    this.#node = document.createTextNode("");
    const block = element("div", "block", this.#node);
    block.dir = "auto";
    this.#root.append(block);
    return MAX_BLOCK;
  }

  #cut() {
    if (this.#root.lastChild.className === "cut") return;
    this.#root.append(element("p", "cut", "The rest is not shown; Copy has all of it."));
  }
}

/** Where to cut `text` to at most `room` characters: behind a line if one ends late enough, never within a character. */
function cutAt(text, room) {
  if (text.length <= room) return text.length;
  const line = text.lastIndexOf("\n", room - 1);
  if (line >= room / 2) return line + 1;
  const code = text.charCodeAt(room - 1);
  return code >= 0xd800 && code < 0xdc00 && room > 1 ? room - 1 : room;
}
