// The live view: asks for a snapshot each second while the page is seen, and shows it.

import { Unauthorized, ask } from "./api.js";
import { BlockMap, Sparkline, Timeline, bytes, duration, short } from "./draw.js";
import { element, setText } from "./text.js";

const byId = (id) => document.getElementById(id);
const INTERVAL = 1000;
/** After so long a snapshot counts as not answered. */
const PATIENCE = 5000;
const LONGEST_PAUSE = 8000;

const COUNTERS = ["prefix_cache_queries", "prefix_cache_hits", "num_preemptions", "num_prompt_tokens", "num_generated_tokens"];
const GAUGES = ["num_running", "num_waiting", "num_blocks", "num_used_blocks", "num_cached_blocks", "num_touched_blocks"];

export class EngineView {
  #sparks = {};
  #map = new BlockMap(byId("map"), ["used", "cached", "free"].map((state) => byId(`swatch-${state}`)));
  #timeline = new Timeline(byId("requests"));
  #last = null;
  #timer = 0;
  #numFailures = 0;
  #isAsking = false;
  #on;
  #model;

  /** `on.state(snapshot)`, `on.gone(error)`, `on.restarted()` and `on.unauthorized()` are told what comes of asking. */
  constructor({ model, on }) {
    this.#model = model;
    this.#on = on;
    for (const name of ["generated", "prompt", "running", "waiting"]) {
      this.#sparks[name] = new Sparkline(byId(`spark-${name}`));
    }
    document.addEventListener("visibilitychange", () => this.ask());
    this.ask();
  }

  /** Asks now, and then each second. */
  async ask() {
    clearTimeout(this.#timer);
    if (document.visibilityState !== "visible" || this.#isAsking) return;
    this.#isAsking = true;
    let pause = INTERVAL;
    let isLocked = false;
    try {
      const signal = AbortSignal.timeout(PATIENCE);
      const model = this.#model();
      const response = await ask(`console/state/${encodeURIComponent(model)}`, { signal });
      const snapshot = await response.json();
      this.#numFailures = 0;
      if (model === this.#model()) this.#show(snapshot);
      else pause = 0;
    } catch (error) {
      this.#numFailures += 1;
      pause = Math.min(INTERVAL * this.#numFailures, LONGEST_PAUSE);
      document.body.classList.add("stale");
      isLocked = error instanceof Unauthorized;
      if (isLocked) this.#on.unauthorized();
      else this.#on.gone(error);
    }
    this.#isAsking = false;
    // Without another key the answer would be the same.
    if (!isLocked) this.#timer = setTimeout(() => this.ask(), pause);
  }

  redraw() {
    this.#map.draw();
  }

  /** Numbers of another model do not follow those of this one. */
  forget() {
    this.#last = null;
    Object.values(this.#sparks).forEach((spark) => spark.clear());
    this.ask();
  }

  #show(snapshot) {
    const before = this.#last?.snapshot;
    if (before && before.instance_id !== snapshot.instance_id) {
      this.#last = null;
      this.#on.restarted();
    }
    document.body.classList.remove("stale");
    this.#on.state(snapshot);
    const now = { at: performance.now(), snapshot, sums: sums(snapshot.replicas) };
    // An engine within a long step has not said what it counts: the next answer tells for both.
    if (snapshot.replicas.every((replica) => replica.num_generated_tokens !== null)) {
      this.#showNumbers(now, this.#last ?? now);
      this.#last = now;
    }
    this.#showBlocks(snapshot.replicas, now.sums);
    this.#showRequests(snapshot.requests);
    this.#showModel(snapshot.model);
    this.#showModels(snapshot);
  }

  #showNumbers(now, before) {
    const seconds = (now.at - before.at) / 1000;
    const per = (name) => (seconds > 0 ? Math.max(0, now.sums[name] - before.sums[name]) / seconds : 0);
    this.#sparks.running.push(now.sums.num_running);
    this.#sparks.waiting.push(now.sums.num_waiting);
    if (seconds > 0) {
      this.#sparks.generated.push(per("num_generated_tokens"));
      this.#sparks.prompt.push(per("num_prompt_tokens"));
    }
    const { prefix_cache_queries: queries, prefix_cache_hits: hits } = now.sums;
    setText(byId("hit-rate"), queries ? `${short((100 * hits) / queries)}%` : "–");
    setText(byId("hit-tokens"), queries ? `${short(hits)} of ${short(queries)} tokens` : "nothing asked yet");
    setText(byId("preemptions"), short(now.sums.num_preemptions));
    setText(byId("uptime"), duration(now.snapshot.uptime_seconds * 1000));
  }

  #showBlocks(replicas, { num_blocks: all, num_used_blocks: used, num_cached_blocks: cached, num_touched_blocks: touched }) {
    const share = (count) => (all ? ` ${short((100 * count) / all)}%` : "");
    setText(byId("count-used"), `${short(used)}${share(used)}`);
    setText(byId("count-cached"), `${short(cached)}${share(cached)}`);
    setText(byId("count-free"), short(Math.max(0, all - used - cached)));
    const maps = replicas.map((replica) => replica.blocks).filter(Boolean);
    const cells = maps.flatMap((map) => map.map(([size, used, cached]) => ({ size, used, cached })));
    // An engine within a long step has not answered: the last map stays.
    if (cells.length === 0) return;
    byId("map-box").hidden = false;
    const perCell = cells[0].size;
    const text = `${short(all)} blocks${perCell > 1 ? `, ${perCell} a cell` : ""}; ${short(touched)} were ever written`;
    setText(byId("map-note"), all ? text : "");
    byId("map").setAttribute("aria-label", `KV blocks: ${used} in use, ${cached} cached, ${Math.max(0, all - used - cached)} free`);
    this.#map.show(cells);
  }

  #showRequests(requests) {
    if (!requests) return;
    byId("requests-card").hidden = false;
    byId("no-requests").hidden = requests.length > 0;
    byId("requests-box").hidden = requests.length === 0;
    const longest = this.#timeline.show(requests);
    setText(byId("scale"), requests.length ? `full width is ${duration(longest)}` : "");
  }

  #showModel(model) {
    byId("plan-card").hidden = !model?.plan.length;
    if (!model?.plan.length) return;
    const all = model.memory.reduce((sum, part) => sum + part.num_bytes, 0) || 1;
    const key = JSON.stringify(model.plan);
    if (byId("plan").dataset.key === key) return;
    byId("plan").dataset.key = key;
    byId("memory").replaceChildren(
      ...model.memory.map((part, index) => {
        const bar = element("span", `part part-${index}`);
        bar.style.width = `${(100 * part.num_bytes) / all}%`;
        return bar;
      }),
    );
    byId("memory-legend").replaceChildren(
      ...model.memory.map((part, index) => element("li", "", element("i", `part-${index}`), `${part.name} `, element("b", "", bytes(part.num_bytes)))),
    );
    byId("plan").replaceChildren(...model.plan.flatMap(({ name, value }) => [element("dt", "", name), element("dd", "", value)]));
  }

  #showModels({ models, num_models: numModels }) {
    const rows = models.map((model) => {
      const name = element("th", "", model.name);
      name.scope = "row";
      const where = model.is_loaded ? (model.is_on_gpu ? "on GPU" : "loaded") : "not loaded";
      const left = model.seconds_left === null ? (model.is_pinned ? "stays" : "") : `goes in ${duration(model.seconds_left * 1000)}`;
      const size = model.num_bytes ? bytes(model.num_bytes) : "";
      return element("tr", model.is_loaded ? "live" : "", name, element("td", "", where), element("td", "number", size), element("td", "number", left));
    });
    byId("models").replaceChildren(...rows);
    setText(byId("more-models"), numModels > models.length ? `and ${numModels - models.length} more` : "");
  }
}

/** Of all replicas together; what a replica does not tell counts 0. */
function sums(replicas) {
  const sum = (name) => replicas.reduce((sum, replica) => sum + (replica[name] ?? 0), 0);
  return Object.fromEntries([...COUNTERS, ...GAUGES].map((name) => [name, sum(name)]));
}
