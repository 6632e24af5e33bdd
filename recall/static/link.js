// The view in the address bar: "#recalls&p.recalls.run=...", which TensorBoard leaves to its plugins.

const PREFIX = "p.recalls.";
let written = null;

const COUNTS = ["step", "memory", "memory2"];
const NUMBERS = ["weight", "age"];

// What the address asks for; numbers that are none are left out.
export function readLink() {
  const found = readTexts();
  for (const name of COUNTS) if (!/^\d{1,12}$/.test(found[name] ?? "")) delete found[name];
  for (const name of NUMBERS) if (!(Number(found[name]) >= 0)) delete found[name];
  for (const name of [...COUNTS, ...NUMBERS]) if (name in found) found[name] = Number(found[name]);
  return found;
}

// Calls back when somebody puts another view into the address bar.
export function onLink(callback) {
  window.parent.addEventListener("hashchange", () => {
    const { hash } = window.parent.location;
    if (hash !== written && hash.startsWith("#recalls")) callback();
  });
}

function readTexts() {
  const found = {};
  for (const part of window.parent.location.hash.slice(1).split("&")) {
    const at = part.indexOf("=");
    if (part.startsWith(PREFIX) && at > 0) {
      try {
        found[part.slice(PREFIX.length, at)] = decodeURIComponent(part.slice(at + 1));
      } catch {
        // Not an address that we wrote.
      }
    }
  }
  return found;
}

export function writeLink(view) {
  const parts = Object.entries(view)
    .filter(([, value]) => value !== null && value !== undefined)
    .map(([name, value]) => `${PREFIX}${name}=${encodeURIComponent(value)}`);
  const address = new URL(window.parent.location.href);
  address.hash = ["recalls", ...parts].join("&");
  written = address.hash;
  // A step is no page of its own: going back leaves the view.
  window.parent.history.replaceState(window.parent.history.state, "", address);
}
