// The page of "Recalls": one run or two, each in a pane, moved through time together.

import { runs } from "./data.js";
import { fill, make } from "./dom.js";
import { Pane } from "./pane.js";
import { onLink, readLink, writeLink } from "./link.js";

const HELP =
  "← → a step, with Shift ten · Home End · Space plays · ↑ ↓ another episode · 0 all actions, 1 to 9 one · Esc closes";
const BEAT = 5000;

class Page {
  constructor(root) {
    this.root = root;
    this.playing = null;
    this.panes = [];
    // Until the view that was asked for is open, the address is not ours to write.
    this.open = false;
  }

  async start() {
    const names = await runs(true).catch((error) => this.say(error.message));
    if (!names) return;
    if (!names.length) {
      this.say(
        "No run below the log directory has recorded what its agent remembered. Agents with a memory do so by default " +
          "(--steps_per_recording); the first episode is recorded once that many steps are done.");
      return;
    }
    this.names = names;
    await this.openLink();
    onLink(() => this.openLink());
    window.addEventListener("keydown", (event) => this.key(event));
    // Keys go to this frame, and not to the page around it.
    window.focus();
    setInterval(() => this.refresh(), BEAT);
  }

  // The view that the address bar asks for; the newest run's newest episode where it asks for none.
  async openLink() {
    this.open = false;
    if (this.playing !== null) this.play();
    const { run, episode, run2, episode2, step, action, weight, age, memory, memory2 } = readLink();
    this.time = step ?? 0;
    this.filter = { action: action ?? "taken", weight: weight ?? 0, age: age ?? Infinity };
    this.panes = [];
    this.build();
    const first = this.names.includes(run) ? run : this.names[this.names.length - 1];
    await this.openPane(0, first, episode);
    if (run && first !== run) this.panes[0].complain(`There is no run ${run} here.`);
    if (this.names.includes(run2)) await this.openPane(1, run2, episode2);
    this.open = true;
    this.show();
    if (memory !== undefined) this.panes[0].openMemory(memory);
    if (memory2 !== undefined && this.panes[1]) this.panes[1].openMemory(memory2);
  }

  say(message) {
    fill(this.root, make("p", { class: "message", role: "status" }, message));
  }

  build() {
    const chosen = (key, parse) => (event) => {
      this.filter[key] = parse(event.target.value);
      // So that the keys move through time again.
      if (event.target.tagName === "SELECT") event.target.blur();
      this.show();
    };
    this.slider = make("input", {
      type: "range", min: 0, max: 0, value: 0, "aria-label": "step", oninput: () => this.go(Number(this.slider.value)),
    });
    this.clock = make("output", { class: "clock" });
    this.player = make("button", { title: "play (Space)", onclick: () => this.play() }, "▶");
    this.speed = make("select", { "aria-label": "steps a second", onchange: () => this.playing !== null && (this.play(), this.play()) },
      ...[2, 5, 10, 30, 60].map((rate) => make("option", { value: rate, selected: rate === 10 }, `${rate}/s`)));
    this.actionSelect = make("select", { "aria-label": "action", onchange: chosen("action", String) });
    this.weightInput = make("input", {
      type: "number", min: 0, max: 1, step: 0.01, value: this.filter.weight, "aria-label": "least weight",
      oninput: chosen("weight", Number),
    });
    this.ageInput = make("input", {
      type: "number", min: 0, step: 1000, value: Number.isFinite(this.filter.age) ? this.filter.age : "",
      placeholder: "any", "aria-label": "greatest age", oninput: chosen("age", (text) => (text ? Number(text) : Infinity)),
    });
    this.comparing = make("select", { "aria-label": "compare with", onchange: () => this.compare(this.comparing.value) },
      make("option", { value: "" }, "nothing"), ...this.names.map((name) => make("option", { value: name }, name)));
    this.copied = make("button", { onclick: () => this.copy() }, "Copy link");
    this.paneRoot = make("div", { class: "panes" });
    fill(this.root,
      make("header", {},
        make("div", { class: "controls" },
          make("button", { title: "first step (Home)", onclick: () => this.go(0) }, "«"),
          make("button", { title: "step back (←)", onclick: () => this.go(this.time - 1) }, "‹"),
          this.player,
          make("button", { title: "step on (→)", onclick: () => this.go(this.time + 1) }, "›"),
          this.speed, this.slider, this.clock),
        make("div", { class: "controls" },
          make("label", {}, "Memories of ", this.actionSelect),
          make("label", {}, "weight or similarity from ", this.weightInput),
          make("label", {}, "age up to ", this.ageInput, " steps"),
          make("label", {}, "Compare with ", this.comparing),
          this.copied,
          make("span", { class: "help", title: HELP }, "⌨ keys"))),
      this.paneRoot);
  }

  async openPane(place, run, episode) {
    const pane = this.panes[place] || new Pane(this, place);
    if (!this.panes[place]) this.paneRoot.append(pane.root);
    this.panes[place] = pane;
    await pane.openRun(run, episode);
    this.offerActions();
  }

  async compare(run) {
    if (!run && this.panes[1]) {
      this.panes.pop().root.remove();
    } else if (run) {
      await this.openPane(1, run);
    }
    this.show();
  }

  offerActions() {
    const names = this.panes[0].actions();
    const options = [["taken", "the action taken"], ["all", "all actions"], ...names.map((name) => [name, name])];
    fill(this.actionSelect, ...options.map(([value, name]) => make("option", { value }, name)));
    if (!options.some(([value]) => value === this.filter.action)) this.filter.action = "taken";
    this.actionSelect.value = this.filter.action;
  }

  get length() {
    // By time: a line that was lost leaves a gap.
    return Math.max(1, ...this.panes.map((pane) => pane.lines.length));
  }

  go(time) {
    this.time = Math.min(Math.max(0, time), this.length - 1);
    this.show();
  }

  show() {
    this.time = Math.min(this.time, this.length - 1);
    this.slider.max = this.length - 1;
    this.slider.value = this.time;
    this.clock.value = `step ${this.time} of ${this.length - 1}`;
    this.actionSelect.value = this.filter.action;
    this.actionSelect.disabled = this.panes.length > 0 && this.panes.every((pane) => pane.hasMoments());
    this.comparing.value = this.panes[1] ? this.panes[1].run : "";
    for (const pane of this.panes) pane.show(this.time, this.filter);
    this.remember();
  }

  remember() {
    if (!this.open) return;
    const [first, second] = this.panes;
    const { action, weight, age } = this.filter;
    writeLink({
      run: first.run, episode: first.episode, step: this.time, action, weight: weight || null,
      age: Number.isFinite(age) ? age : null, memory: first.opened,
      run2: second?.run, episode2: second?.episode, memory2: second?.opened,
    });
  }

  play() {
    if (this.playing !== null) {
      clearInterval(this.playing);
      this.playing = null;
    } else {
      this.playing = setInterval(() => {
        if (this.time + 1 >= this.length) this.play();
        else this.go(this.time + 1);
      }, 1000 / Number(this.speed.value));
    }
    this.player.textContent = this.playing === null ? "▶" : "⏸";
  }

  key(event) {
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "range") return;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const far = event.shiftKey ? 10 : 1;
    const acts = {
      ArrowLeft: () => this.go(this.time - far),
      ArrowRight: () => this.go(this.time + far),
      ArrowUp: () => this.panes[0].otherEpisode(-1),
      ArrowDown: () => this.panes[0].otherEpisode(1),
      Home: () => this.go(0),
      End: () => this.go(this.length - 1),
      " ": () => this.play(),
      Escape: () => this.panes.forEach((pane) => pane.closeMemory()),
    };
    for (let digit = 0; digit < 10; digit++) acts[digit] = () => this.choose(digit);
    if (acts[event.key]) {
      event.preventDefault();
      acts[event.key]();
    }
  }

  choose(digit) {
    const names = this.panes[0].actions();
    if (digit <= names.length) this.chooseAction(digit === 0 ? "all" : names[digit - 1]);
  }

  chooseAction(name) {
    this.filter.action = name;
    this.offerActions();
    this.show();
  }

  async copy() {
    const address = window.parent.location.href;
    try {
      await navigator.clipboard.writeText(address);
      this.copied.textContent = "Copied";
    } catch {
      // Without https there may be no clipboard: the address bar holds the same.
      this.copied.textContent = "See the address bar";
    }
    setTimeout(() => (this.copied.textContent = "Copy link"), 2000);
  }

  async refresh() {
    for (const pane of this.panes) await pane.refresh().catch((error) => pane.complain(error.message));
  }
}

function takeColours() {
  const host = window.parent.document.body;
  const follow = () => document.documentElement.classList.toggle("dark", host.classList.contains("dark-mode"));
  new MutationObserver(follow).observe(host, { attributes: true, attributeFilter: ["class"] });
  follow();
}

export async function render() {
  const style = make("link", { rel: "stylesheet", href: new URL("./style.css", import.meta.url).href });
  document.head.append(style);
  takeColours();
  const root = make("main");
  document.body.append(root);
  await new Page(root).start();
}
