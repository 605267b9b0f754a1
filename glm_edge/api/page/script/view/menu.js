// The list at the side, which is a menu on a phone.

import { $, onClick } from "../base/dom.js";
import { on } from "../base/state.js";

export const menuIsOpen = () => $("app").classList.contains("open");

function openMenu() {
  $("app").classList.add("open");
  $("menu").setAttribute("aria-expanded", "true");
  document.querySelector("main").inert = true;
  $("close").focus();
}
export function closeMenu() {
  if (!menuIsOpen()) return;
  $("app").classList.remove("open");
  $("menu").setAttribute("aria-expanded", "false");
  document.querySelector("main").inert = false;
  $("menu").focus();
}

onClick("menu", openMenu);
onClick("close", closeMenu);
onClick("shade", closeMenu);
on("opened", closeMenu);
matchMedia("(max-width: 760px)").addEventListener("change", closeMenu);
