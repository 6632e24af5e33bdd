// One run: its episodes, one step of one of them, and the memories behind that.

import { areMoments, draw, episodes, forgetSheets, prefetch, recalled, steps } from "./data.js";
import { fill, make, percent, short } from "./dom.js";
import { card, story } from "./cards.js";

const MOMENTS = 4;
const MOST_CARDS = 60;

function titled(heading) {
  if (heading.damaged) return `${heading.name} (damaged)`;
  const total = heading.total !== null ? `return ${short(heading.total)}` : heading.length === null ? "being written" : "cut short";
  return heading.kind === "training"
    ? `episode ${heading.number}, from step ${short(heading.step)}, ${total}`
    : `evaluation at step ${short(heading.step)}, game ${heading.number}, ${total}`;
}

// Times in ascending order as stretches without a gap: 3, 4, 5, 9 as [3, 5], [9, 9].
function ranges(times) {
  const found = [];
  for (const time of times) {
    const last = found[found.length - 1];
    if (last && last[1] === time - 1) last[1] = time;
    else found.push([time, time]);
  }
  return found;
}

export class Pane {
  constructor(page, place) {
    this.page = page;
    this.lines = [];
    this.headings = [];
    this.opened = null;
    this.runSelect = make("select", { "aria-label": "run", onchange: () => this.change(() => this.openRun(this.runSelect.value)) },
      ...page.names.map((name) => make("option", { value: name }, name)));
    this.episodeSelect = make("select", {
      "aria-label": "episode", onchange: () => this.change(() => this.openEpisode(this.episodeSelect.value)),
    });
    this.notice = make("p", { class: "notice", role: "status", hidden: true });
    this.world = make("canvas", { class: "world" });
    this.worldNote = make("p", { class: "note" });
    this.facts = make("dl", { class: "facts" });
    this.values = make("div", { class: "values" });
    this.cards = make("div", { class: "cards" });
    this.track = make("canvas", { class: "track", width: 1000, height: 40, title: "reward, and where nobody looked" });
    this.track.addEventListener("click", (event) => this.jump(event));
    this.detail = make("section", { class: "detail", hidden: true });
    this.root = make("section", { class: "pane", "data-pane": place },
      make("div", { class: "choice" }, this.runSelect, this.episodeSelect),
      this.notice, this.track,
      make("div", { class: "columns" },
        make("div", { class: "left" }, this.world, this.worldNote, this.facts, this.values),
        make("div", { class: "right" }, this.cards, this.detail)));
  }

  // Opening something else and showing it.
  async change(open) {
    document.activeElement.blur();
    await open();
    this.page.offerActions();
    this.page.show();
  }

  actions() {
    return this.heading && this.heading.actions ? this.heading.actions : [];
  }

  complain(message) {
    this.notice.hidden = !message;
    this.notice.textContent = message || "";
  }

  async openRun(run, episode) {
    this.run = run;
    this.runSelect.value = run;
    let headings = [];
    let complaint = "";
    try {
      headings = await episodes(run, true);
    } catch (error) {
      complaint = error.message;
    }
    // Meanwhile another run may have been chosen.
    if (this.run !== run) return;
    this.headings = headings;
    this.offerEpisodes();
    const wanted = this.headings.find((heading) => heading.name === episode);
    const sound = this.headings.filter((heading) => !heading.damaged);
    const chosen = wanted || sound[sound.length - 1] || this.headings[0];
    await this.openEpisode(chosen ? chosen.name : null);
    if (complaint) this.complain(complaint);
    else if (episode && !wanted) this.complain(`There is no episode ${episode} in this run.`);
  }

  offerEpisodes() {
    fill(this.episodeSelect, ...this.headings.map((heading) => make("option", { value: heading.name }, titled(heading))));
    if (this.episode) this.episodeSelect.value = this.episode;
  }

  async openEpisode(name) {
    this.episode = name;
    this.heading = this.headings.find((heading) => heading.name === name) || null;
    this.closeMemory();
    this.complain("");
    if (this.heading === null || this.heading.damaged) this.lines = [];
    if (this.heading === null) {
      this.complain("Nothing is recorded of this run yet: the first episode is, once --steps_per_recording steps are done.");
      return;
    }
    this.episodeSelect.value = name;
    if (this.heading.damaged) {
      this.complain(this.heading.damaged);
      this.drawTrack();
      return;
    }
    await this.load(false);
  }

  async load(fresh) {
    const { run, episode } = this;
    try {
      const { lines, damaged } = await steps(run, episode, fresh);
      // Meanwhile another episode may have been chosen: its answer may have come before this one.
      if (this.run !== run || this.episode !== episode) return;
      this.lines = [];
      for (const line of lines) this.lines[line.time] = line;
      if (damaged.length) {
        this.complain(`${damaged.length} of the lines of this episode cannot be read (line ${damaged.slice(0, 5).join(", ")}` +
          `${damaged.length > 5 ? ", …" : ""} of steps.jsonl); the others are shown.`);
      } else if (!lines.length) {
        this.complain("This episode has no steps yet.");
      } else if (this.heading.length === null) {
        this.complain("This episode is still being written, or its run was killed in it.");
      } else if (this.heading.total === null) {
        this.complain("The record of this episode was cut short: its run was stopped in it, or it is very long.");
      } else {
        this.complain("");
      }
    } catch (error) {
      if (this.run !== run || this.episode !== episode) return;
      this.lines = [];
      this.complain(error.message);
    }
    this.drawTrack();
  }

  // There may be new episodes; one that was being written may have grown, or ended.
  async refresh() {
    const { run, episode } = this;
    const headings = await episodes(run, true);
    if (this.run !== run || this.episode !== episode) return;
    if (JSON.stringify(headings) !== JSON.stringify(this.headings)) {
      this.headings = headings;
      this.offerEpisodes();
    }
    if (episode === null && headings.length) await this.change(() => this.openEpisode(headings[headings.length - 1].name));
    if (!this.heading || this.heading.damaged || this.heading.length !== null) return;
    this.heading = headings.find((heading) => heading.name === episode) || this.heading;
    forgetSheets(run, episode);
    const before = this.lines.length;
    await this.load(true);
    if (this.lines.length !== before) this.page.show();
  }

  otherEpisode(by) {
    const place = this.headings.findIndex((heading) => heading.name === this.episode) + by;
    if (this.headings[place]) this.change(() => this.openEpisode(this.headings[place].name));
  }

  // Whether memories are moments of their episode, which speak for no action.
  hasMoments() {
    return this.lines.some((line) => areMoments(line.memories));
  }

  // Which memories of a line pass the filter, the heaviest or most similar first.
  chosen(line, filter) {
    const memories = line.memories;
    if (!memories) return [];
    const now = this.now(line);
    if (areMoments(memories)) {
      const { similarity, time } = memories;
      return time
        .map((_, place) => place)
        // A similarity may be less than 0, which no weight is: unless it is asked for, none is left out.
        .filter((place) => (filter.weight <= 0 || similarity[place] >= filter.weight) && this.age(line, place) <= filter.age)
        .sort((one, other) => similarity[other] - similarity[one]);
    }
    const action = this.filtered(line, filter);
    return memories.origin
      .map((_, place) => place)
      .filter((place) => action === null || memories.action[place] === action)
      .filter((place) => memories.weight[place] >= filter.weight && now - memories.origin[place] <= filter.age)
      .sort((one, other) => memories.weight[other] - memories.weight[one]);
  }

  // How many agent steps ago a moment of the same episode was.
  age(line, place) {
    return (line.time - line.memories.time[place]) * (this.heading.kind === "training" ? this.heading.num_envs : 1);
  }

  // The number of the action whose memories are shown; null: all. Another world may not have an action of that name.
  filtered(line, filter) {
    if (filter.action === "all" || areMoments(line.memories)) return null;
    return filter.action === "taken" ? line.action : this.actions().indexOf(filter.action);
  }

  // The agent step that ages are counted from.
  now(line) {
    return line.step === null ? this.heading.step : line.step;
  }

  show(time, filter) {
    this.time = time;
    const line = this.lines[time];
    this.root.classList.toggle("over", !line);
    if (!line) {
      const reason = time < this.lines.length ? "This step cannot be read." : `This episode ended at step ${this.lines.length - 1}.`;
      fill(this.facts, make("dt", {}, this.lines.length ? reason : ""));
      fill(this.values);
      fill(this.cards);
      this.world.width = this.world.height = 0;
      this.world.dataset.picture = "";
      this.worldNote.textContent = "";
      this.drawTrack();
      return;
    }
    this.showWorld(line);
    this.showValues(line, filter);
    this.showMemories(line, filter);
    this.lines.slice(time + 1, time + 8).forEach((next) => prefetch(this.run, this.episode, next, this.chosen(next, filter)));
    this.drawTrack();
  }

  async showWorld(line) {
    const name = this.actions()[line.action] ?? line.action;
    const facts = [["took", name], ["reward", short(line.reward)], ["agent step", short(this.now(line))]];
    fill(this.facts, ...facts.flatMap(([term, fact]) => [make("dt", {}, term), make("dd", {}, String(fact))]));
    const drawn = await draw(this.world, this.run, this.episode, line.picture);
    this.worldNote.textContent = drawn ? "" : "The picture of this step is still being written, or lost.";
  }

  // The value of every action, and within its bar what each memory adds.
  showValues(line, filter) {
    if (!line.values) {
      fill(this.values, make("p", { class: "note" }, "Nobody looked at this step, to keep recording cheap (--recording_percent)."));
      return;
    }
    const finite = line.values.filter((value) => value !== null);
    const least = Math.min(0, ...finite);
    const span = Math.max(1e-12, Math.max(0, ...finite) - least);
    fill(this.values, ...line.values.map((value, action) => this.valueRow(line, filter, action, value, least, span)));
  }

  valueRow(line, filter, action, value, least, span) {
    const memories = line.memories;
    const moments = areMoments(memories);
    const parts = moments ? [] : memories.action
      .map((of, place) => (of === action ? [memories.weight[place] * memories.value[place], place] : null))
      .filter((part) => part !== null);
    if (moments ? value : line.rest[action]) parts.push([moments ? value : line.rest[action], null]);
    const total = parts.reduce((sum, [part]) => sum + Math.abs(part), 0);
    const others = moments ? "the chance of this action; what memories add to it is not known" : "all memories not listed";
    const width = value === null ? 100 : (100 * (Math.max(value, 0) - least - Math.max(0, -value))) / span;
    const bar = make("span", { class: "bar", style: `width:${Math.max(1, Math.min(100, width))}%` },
      ...parts.map(([part, place]) => {
        const what = place === null ? others : `${this.whence(line, place)}: weight ${percent(memories.weight[place])} × ${short(memories.value[place])}`;
        return make("i", { class: place === null ? "rest" : "part", style: `flex-grow:${total ? Math.abs(part) / total : 1}`, title: `${what} = ${short(part)}` });
      }));
    const chosen = action === this.filtered(line, filter);
    const number = value === null ? "untried" : moments ? percent(value) : short(value);
    return make("button", {
      class: `value${action === line.action ? " took" : ""}${chosen ? " chosen" : ""}`,
      title: moments ? others : "show the memories of this action",
      onclick: () => moments || this.page.chooseAction(this.actions()[action]),
    }, make("span", { class: "name" }, this.actions()[action] ?? String(action)),
      make("span", { class: "scale" }, bar), make("span", { class: "number" }, number));
  }

  whence(line, place) {
    const { episode, time, origin } = line.memories;
    if (areMoments(line.memories)) return `step ${time[place]}`;
    return episode[place] === null ? `step ${short(origin[place])}` : `episode ${episode[place]}, step ${time[place]}`;
  }

  showMemories(line, filter) {
    const places = this.chosen(line, filter);
    if (!places.length) {
      const known = line.memories && (line.memories.time ?? []).length;
      fill(this.cards, make("p", { class: "note" }, !line.memories ? "" : known ? "No memory passes the filter." : "Nothing was remembered yet."));
      return;
    }
    const left = places.length - MOST_CARDS;
    fill(this.cards, ...places.slice(0, MOST_CARDS).map((place) => card(this, line, place)),
      left > 0 ? make("p", { class: "note" }, `and ${left} lighter ones: choose one action to see them`) : null);
  }

  closeMemory() {
    this.opened = null;
    this.detail.hidden = true;
    for (const card of this.cards.querySelectorAll(".opened")) card.classList.remove("opened");
    this.page.remember();
  }

  // When a memory was written, the moments around it, and where else it was recalled. It is meant by its agent step, or
  // where memories are moments of the same episode, by its step in that.
  async openMemory(origin) {
    this.opened = origin;
    this.page.remember();
    for (const card of this.cards.children) card.classList.toggle("opened", card.dataset.origin === String(origin));
    const moments = [];
    const within = this.hasMoments();
    for (let by = -MOMENTS; by <= MOMENTS; by++) {
      const step = within ? origin + by : origin + by * this.heading.num_envs;
      if (within ? !this.lines[step] : step < 1) continue;
      const canvas = make("canvas");
      draw(canvas, this.run, ...(within ? [this.episode, this.lines[step].picture] : [null, step]));
      moments.push(make("figure", { class: by === 0 ? "self" : "" }, canvas, make("figcaption", {}, by === 0 ? "then" : `${by > 0 ? "+" : "−"}${Math.abs(by)}`)));
    }
    const places = make("ul", {}, make("li", {}, "…"));
    fill(this.detail,
      make("h3", {}, within ? `Step ${short(origin)} of this episode` : `Memory of agent step ${short(origin)}`, make("button", { title: "close (Esc)", onclick: () => this.closeMemory() }, "×")),
      make("p", { class: "note" }, story(this, origin)),
      make("div", { class: "moments" }, ...moments),
      make("h4", {}, "Recalled in"), places);
    this.detail.hidden = false;
    const found = within ? this.recalledHere(origin) : await recalled(this.run, origin).catch((error) => [{ error: error.message }]);
    if (this.opened !== origin) return;
    fill(places, ...(found.length ? found : [{ error: "no recorded step" }]).map((one) => this.occurrence(one)));
  }

  // At which steps of this episode one of its moments was listed.
  recalledHere(time) {
    const times = this.lines.filter((line) => areMoments(line.memories) && line.memories.time.includes(time)).map((line) => line.time);
    return times.length ? [{ episode: this.episode, times }] : [];
  }

  occurrence({ episode, times, error }) {
    if (error) return make("li", {}, error);
    const heading = this.headings.find((one) => one.name === episode);
    const links = ranges(times).map(([first, last]) =>
      make("button", { class: "time", onclick: () => this.leap(episode, first) }, first === last ? String(first) : `${first}–${last}`));
    return make("li", {}, `${heading ? titled(heading) : episode}: `, ...links);
  }

  async leap(episode, time) {
    const origin = this.opened;
    if (!this.headings.some((heading) => heading.name === episode)) await this.refresh();
    if (episode !== this.episode) await this.openEpisode(episode);
    this.page.offerActions();
    this.page.go(time);
    this.openMemory(origin);
  }

  // Rewards as ticks up and down, steps that nobody looked at hatched, and where we are.
  drawTrack() {
    const context = this.track.getContext("2d");
    const { width, height } = this.track;
    const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);
    // What is not there is skipped.
    const most = this.lines.reduce((largest, line) => Math.max(largest, Math.abs(line.reward)), 1e-12);
    const step = width / Math.max(1, this.lines.length);
    context.clearRect(0, 0, width, height);
    this.lines.forEach((line, time) => {
      context.fillStyle = colour(line.memories ? "--looked" : "--unlooked");
      context.fillRect(time * step, height - 6, Math.max(step, 1), 6);
      if (line.reward) {
        context.fillStyle = colour(line.reward > 0 ? "--good" : "--bad");
        const tall = 4 + (26 * Math.abs(line.reward)) / most;
        context.fillRect(time * step, 32 - tall, Math.max(2, Math.min(step, 6)), tall);
      }
    });
    context.fillStyle = colour("--accent");
    context.fillRect((this.time || 0) * step, 0, Math.max(2, Math.min(step, 6)), height);
  }

  jump(event) {
    const box = this.track.getBoundingClientRect();
    this.page.go(Math.floor(((event.clientX - box.left) / box.width) * this.lines.length));
  }
}
