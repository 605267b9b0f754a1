// What the browser keeps. Every read may find nothing, or what another program wrote; every write may be refused.

export const PREFIX = "glm-edge.";

export function read(area, key) {
  try {
    return JSON.parse(window[area].getItem(PREFIX + key));
  } catch {
    return null;
  }
}
export function write(area, key, value) {
  try {
    if (value === null) window[area].removeItem(PREFIX + key);
    else window[area].setItem(PREFIX + key, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}
export function keptChatKeys() {
  try {
    return Object.keys(localStorage).filter((name) => name.startsWith(PREFIX + "chat."));
  } catch {
    return [];
  }
}
