// Nodes: finding and making them, buttons, and values that may be anything.

export const $ = (id) => document.getElementById(id);

export function el(tag, properties, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}
export function button(words, action, className = "") {
  const node = el("button", { type: "button", className, textContent: words });
  node.addEventListener("click", () => action(node));
  return node;
}
export function onClick(id, action) {
  $(id).addEventListener("click", () => action());
}
export function onSubmit(form, action) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    action();
  });
}
export const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
