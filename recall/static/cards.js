// A memory as a card, and in a sentence.

import { areMoments, draw } from "./data.js";
import { make, percent, short } from "./dom.js";

export const card = (pane, line, place) => (areMoments(line.memories) ? momentCard : memoryCard)(pane, line, place);

// A memory that is weighed, by its agent step.
function memoryCard(pane, line, place) {
  const memories = line.memories;
  const at = (name) => (memories[name] ? memories[name][place] : undefined);
  const picture = make("canvas");
  const lost = make("span", { class: "lost", hidden: true }, "no longer kept");
  draw(picture, pane.run, null, at("origin")).then((drawn) => (lost.hidden = drawn));
  const pictures = [make("figure", {}, picture, lost)];
  if (at("reconstruction") !== undefined) {
    const decoded = make("canvas");
    draw(decoded, pane.run, pane.episode, at("reconstruction"));
    pictures.push(make("figure", {}, decoded, make("figcaption", {}, "reconstructed")));
  }
  const now = pane.now(line);
  const facts = [
    ["value", short(at("value"))],
    ["age", short(now - at("origin"))],
    ["distance", short(at("distance"))],
    ["key age", short(now - at("keyed_at"))],
    ["used", `${short(at("uses"))}×`],
  ];
  if (at("fresh_distance") !== undefined) facts.splice(3, 0, ["if fresh", short(at("fresh_distance"))]);
  const stale = at("fresh_distance") !== undefined && Math.abs(at("fresh_distance") - at("distance")) > 0.5 * Math.max(at("distance"), 1e-9);
  return make("button", {
    class: `card${stale ? " stale" : ""}${at("origin") === pane.opened ? " opened" : ""}`, "data-origin": at("origin"),
    title: stale ? "its stored key is far from what it would be now" : "when it was written, and where else recalled",
    onclick: () => pane.openMemory(at("origin")),
  },
    make("span", { class: "weight" }, make("i", { style: `width:${100 * at("weight")}%` }), make("b", {}, percent(at("weight")))),
    make("span", { class: "pictures" }, ...pictures),
    make("span", { class: "of" }, `${pane.actions()[at("action")] ?? at("action")} · ${pane.whence(line, place)}`),
    make("dl", { class: "facts" }, ...facts.flatMap(([term, fact]) => [make("dt", {}, term), make("dd", {}, fact)])));
}

// A moment of the same episode, by its step.
function momentCard(pane, line, place) {
  const { time, similarity, value_similarity: ofValues } = line.memories;
  const picture = make("canvas");
  draw(picture, pane.run, pane.episode, line.memories.picture[place]);
  const facts = [
    ["value similarity", short(ofValues[place])],
    ["steps before", short(line.time - time[place])],
    ["age", short(pane.age(line, place))],
  ];
  return make("button", {
    class: `card${time[place] === pane.opened ? " opened" : ""}`, "data-origin": time[place],
    title: "the moments around it, and where else recalled", onclick: () => pane.openMemory(time[place]),
  },
    make("span", { class: "weight" }, make("i", { style: `width:${100 * Math.max(0, similarity[place])}%` }),
      make("b", {}, `similarity ${short(similarity[place])}`)),
    make("span", { class: "pictures" }, make("figure", {}, picture)),
    make("span", { class: "of" }, pane.whence(line, place)),
    make("dl", { class: "facts" }, ...facts.flatMap(([term, fact]) => [make("dt", {}, term), make("dd", {}, fact)])));
}

// What is known of a memory, by the number it is opened by, in a sentence.
export function story(pane, origin) {
  const line = pane.lines[pane.time];
  const moments = line && areMoments(line.memories);
  const place = !line || !line.memories ? -1 : line.memories[moments ? "time" : "origin"].indexOf(origin);
  if (place < 0) return "It is not among the memories of this step.";
  const memories = line.memories;
  if (moments) {
    return `The key that is read now is like the one that was written then, by ${short(memories.similarity[place])} of 1, ` +
      `and what is read like the value that was written, by ${short(memories.value_similarity[place])}.`;
  }
  return `Observed in ${pane.whence(line, place)}; its value last written at agent step ${short(memories.written_at[place])}; ` +
    `its key of step ${short(memories.keyed_at[place])}; recalled ${short(memories.uses[place])} times before this step.`;
}
