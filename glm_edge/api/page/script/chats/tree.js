// A conversation is a tree of messages: an edited question and another try are branches, and all of them are kept.
//
// `nodes` holds every message with its id and its parent's (0: none), parents first. `chosen` says which of several
// children is shown; where it says nothing, the latest is.

const childrenOf = (chat, id) => chat.nodes.filter((node) => node.parent === id);

function shownChild(chat, id) {
  const children = childrenOf(chat, id);
  return children.find((node) => node.id === chat.chosen[id]) ?? children.at(-1);
}

// The messages that are shown, from the first question on.
export function shownPath(chat) {
  const path = [];
  for (let node = shownChild(chat, 0); node; node = shownChild(chat, node.id)) path.push(node);
  return path;
}

// The messages that lead to this one, itself included.
export function pathTo(chat, message) {
  const byId = new Map(chat.nodes.map((node) => [node.id, node]));
  const path = [];
  for (let node = message; node; node = byId.get(node.parent)) path.unshift(node);
  return path;
}

export const siblingsOf = (chat, message) => childrenOf(chat, message.parent);
export const parentOf = (chat, message) => chat.nodes.find((node) => node.id === message.parent);

export function choose(chat, message) {
  chat.chosen[message.parent] = message.id;
}
export function addMessage(chat, parent, message) {
  const id = Math.max(0, ...chat.nodes.map((node) => node.id)) + 1;
  const node = Object.assign(message, { id, parent });
  chat.nodes.push(node);
  choose(chat, node);
  return node;
}
// Only of a message that nothing follows.
export function removeMessage(chat, message) {
  chat.nodes.splice(chat.nodes.indexOf(message), 1);
  delete chat.chosen[message.parent];
}
