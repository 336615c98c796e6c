// Figures: sparklines, the map of KV blocks, bars of requests.

import { element, setText } from "./text.js";

const SVG = "http://www.w3.org/2000/svg";

/** Numbers that stay short. */
export function short(number) {
  if (number >= 1e9) return `${(number / 1e9).toFixed(1)}G`;
  if (number >= 1e6) return `${(number / 1e6).toFixed(1)}M`;
  if (number >= 1e4) return `${(number / 1e3).toFixed(1)}k`;
  if (number >= 100 || Number.isInteger(number)) return Math.round(number).toLocaleString("en");
  return number.toFixed(1);
}

export function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const unit = number < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(number) / 10));
  return `${(number / 1024 ** unit).toFixed(unit > 0 ? 1 : 0)} ${units[unit]}`;
}

export function duration(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
  const seconds = Math.floor(ms / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

/** The last samples of a number, as a line under its present value. */
export class Sparkline {
  #svg;
  #line = document.createElementNS(SVG, "polyline");
  #area = document.createElementNS(SVG, "polygon");
  #samples = [];
  #value;
  #most;
  static LENGTH = 120;

  /** `figure` has elements of the classes `value` and `most`. */
  constructor(figure) {
    this.#value = figure.querySelector(".value");
    this.#most = figure.querySelector(".most");
    this.#svg = document.createElementNS(SVG, "svg");
    this.#svg.setAttribute("viewBox", `0 0 ${Sparkline.LENGTH - 1} 32`);
    this.#svg.setAttribute("preserveAspectRatio", "none");
    this.#svg.setAttribute("aria-hidden", "true");
    this.#svg.append(this.#area, this.#line);
    figure.append(this.#svg);
  }

  push(number) {
    this.#samples.push(number);
    if (this.#samples.length > Sparkline.LENGTH) this.#samples.shift();
    const most = Math.max(...this.#samples);
    const top = most || 1;
    const start = Sparkline.LENGTH - this.#samples.length;
    const points = this.#samples.map((value, index) => `${start + index},${(31 - (value / top) * 29).toFixed(1)}`);
    this.#line.setAttribute("points", points.join(" "));
    this.#area.setAttribute("points", `${start},32 ${points.join(" ")} ${Sparkline.LENGTH - 1},32`);
    setText(this.#value, short(number));
    setText(this.#most, most > 0 ? `max ${short(most)}` : "");
  }

  clear() {
    this.#samples = [];
  }
}

/** Blocks in order, some of them a cell: from below those in use, then those that keep a prefix, the rest is free. */
export class BlockMap {
  #canvas;
  #blocks = null;
  #colors;

  /** `swatches`: elements whose colours are those of used, cached and free blocks. */
  constructor(canvas, swatches) {
    this.#canvas = canvas;
    this.#colors = () => swatches.map((swatch) => getComputedStyle(swatch).backgroundColor);
    new ResizeObserver(() => this.draw()).observe(canvas.parentElement);
  }

  show(blocks) {
    this.#blocks = blocks;
    this.draw();
  }

  draw() {
    const cells = this.#blocks;
    const width = this.#canvas.parentElement.clientWidth;
    if (!cells?.length || !width) return;
    const columns = Math.min(64, Math.max(16, Math.floor(width / 10)));
    const pitch = width / columns;
    const rows = Math.ceil(cells.length / columns);
    const scale = devicePixelRatio || 1;
    this.#canvas.width = Math.round(width * scale);
    this.#canvas.height = Math.round(rows * pitch * scale);
    this.#canvas.style.height = `${rows * pitch}px`;
    const context = this.#canvas.getContext("2d");
    context.scale(scale, scale);
    const [used, cached, free] = this.#colors();
    const side = pitch - 1.5;
    cells.forEach((cell, index) => {
      const x = (index % columns) * pitch;
      const y = Math.floor(index / columns) * pitch;
      const parts = [[used, cell.used / cell.size], [cached, cell.cached / cell.size], [free, 1]];
      let bottom = y + side;
      for (const [color, share] of parts) {
        const height = Math.min(share * side, bottom - y);
        context.fillStyle = color;
        context.fillRect(x, bottom - height, side, height);
        bottom -= height;
      }
    });
  }
}

const PHASES = ["queue", "prefill", "decode"];

/** A row for each request: its bar from arrival to end, all to one scale. */
export class Timeline {
  #body;
  #rows = new Map();

  constructor(body) {
    this.#body = body;
  }

  show(requests) {
    const longest = Math.max(1, ...requests.map(total));
    const rows = requests.map((request) => {
      const row = this.#rows.get(request.id) ?? new Row(request.id);
      row.show(request, longest);
      return [request.id, row];
    });
    this.#rows = new Map(rows);
    const elements = rows.map(([, row]) => row.root);
    const isSame = elements.length === this.#body.children.length && elements.every((own, index) => own === this.#body.children[index]);
    if (!isSame) this.#body.replaceChildren(...elements);
    return longest;
  }
}

function total(request) {
  return request.queue_ms + request.prefill_ms + request.decode_ms;
}

class Row {
  root = element("tr");
  #bars = PHASES.map((phase) => element("span", `bar ${phase}`));
  #state = element("td", "state");
  #times = element("span", "visually-hidden");
  #tokens = element("td", "number");
  #first = element("td", "number");
  #whole = element("td", "number");

  constructor(id) {
    const name = element("th", "", id);
    name.scope = "row";
    const bars = element("td", "bars", ...this.#bars, this.#times);
    this.root.append(name, bars, this.#first, this.#whole, this.#tokens, this.#state);
  }

  show(request, longest) {
    PHASES.forEach((phase, index) => {
      this.#bars[index].style.width = `${(request[`${phase}_ms`] / longest) * 100}%`;
    });
    const isLive = request.state === "running" || request.state === "waiting";
    this.root.className = isLive ? "live" : "";
    const phases = PHASES.map((phase) => `${phase} ${duration(request[`${phase}_ms`])}`).join(", ");
    setText(this.#times, phases);
    this.root.title = phases + (request.num_preemptions ? `, preempted ${request.num_preemptions} times` : "");
    setText(this.#first, request.num_output_tokens ? duration(request.queue_ms + request.prefill_ms) : "–");
    setText(this.#whole, duration(total(request)));
    const cached = request.num_cached_tokens ? ` (${short(request.num_cached_tokens)})` : "";
    setText(this.#tokens, `${short(request.num_prompt_tokens)}${cached} → ${short(request.num_output_tokens)}`);
    setText(this.#state, request.state);
    this.#state.className = `state ${request.state}`;
  }
}
