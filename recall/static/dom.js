// Making parts of the page. Whatever comes from a record is put in as text, never as markup.

export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.className = value;
    else if (value !== false && value !== null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

export function fill(node, ...children) {
  node.replaceChildren(...children.filter((child) => child !== null));
}

// Numbers as short as they can be read: 1,234 · 12.3 · 0.00123.
export function short(number) {
  const size = Math.abs(number);
  if (size >= 1000 || Number.isInteger(number)) return Math.round(number).toLocaleString("en-US");
  return String(Number(number.toPrecision(3)));
}

export const percent = (share) => `${share >= 0.1 || share === 0 ? Math.round(100 * share) : (100 * share).toFixed(1)} %`;
