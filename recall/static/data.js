// What the page knows of runs, episodes, steps and pictures, each fetched once.

const SIDE = 8;
const PER_SHEET = SIDE * SIDE;

const answers = new Map();
const sheets = new Map();

function address(route, query) {
  const url = new URL(route, import.meta.url);
  for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
  return url;
}

async function fetchAnswer(route, query) {
  const response = await fetch(address(route, query));
  const answer = await response.json().catch(() => null);
  if (!response.ok || answer === null) throw new Error(answer?.error || `TensorBoard answered ${response.status}, which cannot be read.`);
  return answer;
}

// `fresh` asks anew, for what may have grown.
function ask(route, query, fresh) {
  const key = address(route, query).href;
  if (fresh || !answers.has(key)) {
    const answer = fetchAnswer(route, query);
    answer.catch(() => answers.delete(key));
    answers.set(key, answer);
  }
  return answers.get(key);
}

export const runs = (fresh) => ask("./runs", {}, fresh);
export const episodes = (run, fresh) => ask("./episodes", { run }, fresh);
export const steps = (run, episode, fresh) => ask("./steps", { run, episode }, fresh);
export const recalled = (run, origin) => ask("./recalled", { run, origin }, true);

// The newest sheets, decoded; null for one that is not kept. Some 2 MB each.
const MOST_SHEETS = 120;

function sheet(run, episode, number) {
  const url = address("./sheet", episode === null ? { run, sheet: number } : { run, episode, sheet: number }).href;
  if (sheets.has(url)) {
    const found = sheets.get(url);
    sheets.delete(url);
    sheets.set(url, found);
    return found;
  }
  const loading = new Promise((resolve) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => resolve(null);
    image.src = url;
  });
  sheets.set(url, loading);
  if (sheets.size > MOST_SHEETS) sheets.delete(sheets.keys().next().value);
  return loading;
}

// Sheets of an episode that runs are written anew.
export function forgetSheets(run, episode) {
  const prefix = address("./sheet", { run, episode }).href;
  for (const url of [...sheets.keys()]) if (url.startsWith(prefix)) sheets.delete(url);
}

// Draws a picture on a canvas; `episode` null means what was observed in training. Whether there was one to draw.
export async function draw(canvas, run, episode, number) {
  const wanted = `${run}|${episode}|${number}`;
  canvas.dataset.picture = wanted;
  const image = number === null ? null : await sheet(run, episode, Math.floor(number / PER_SHEET));
  // Meanwhile the canvas may have been asked for another picture.
  if (canvas.dataset.picture !== wanted) return true;
  if (image === null) {
    canvas.width = canvas.height = 0;
    return false;
  }
  const width = image.naturalWidth / SIDE;
  const height = image.naturalHeight / SIDE;
  const place = number % PER_SHEET;
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").drawImage(
    image, (place % SIDE) * width, Math.floor(place / SIDE) * height, width, height, 0, 0, width, height);
  return true;
}

// Memories that are moments of the same episode; they speak for no action.
export const areMoments = (memories) => Boolean(memories && memories.similarity);

// Has the pictures of a step at hand before it is shown.
export function prefetch(run, episode, line, shown) {
  const moments = areMoments(line.memories);
  const wanted = [[episode, line.picture], ...shown.map((place) => moments ? [episode, line.memories.picture[place]] : [null, line.memories.origin[place]])];
  for (const [of, number] of wanted) sheet(run, of, Math.floor(number / PER_SHEET));
}
