// The view in the address bar: "#recalls&p.recalls.run=...", which TensorBoard leaves to its plugins.

const PREFIX = "p.recalls.";

export function readLink() {
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
  // A step is no page of its own: going back leaves the view.
  window.parent.history.replaceState(window.parent.history.state, "", address);
}
