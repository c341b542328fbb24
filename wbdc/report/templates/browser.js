"use strict";
// The text of a mark of a chart, on hover and on focus; Escape hides it.
(() => {
  const tip = document.getElementById("tip");
  let mark = null;
  const place = () => {
    if (!mark) return;
    const box = mark.getBoundingClientRect();
    tip.style.left = Math.max(4, Math.min(box.left, innerWidth - tip.offsetWidth - 8)) + "px";
    tip.style.top = Math.max(4, box.top - tip.offsetHeight - 8) + "px";
  };
  const show = (event) => {
    const text = event && event.target.dataset && event.target.dataset.tip;
    mark = text ? event.target : null;
    tip.hidden = !mark;
    tip.textContent = text || "";
    place();
  };
  document.addEventListener("mouseover", show);
  document.addEventListener("focusin", show);
  document.addEventListener("focusout", () => show(null));
  document.addEventListener("scroll", place, { passive: true, capture: true });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") show(null); });
})();
// The filters and the order of the mistakes. Without this script, all of them are shown.
(() => {
  const form = document.getElementById("filters");
  if (!form) return;
  const list = document.getElementById("cards");
  const status = document.getElementById("shown");
  const cards = Array.from(list.children);
  const matches = (card, chosen) => {
    const data = card.dataset;
    const [verdict, ...rest] = (chosen.member || "").split(":");
    const isWrong = chosen.member && JSON.parse(data.wrong).includes(rest.join(":"));
    return (!chosen.true || data.true === chosen.true)
      && (!chosen.predicted || data.predicted === chosen.predicted)
      && Number(data.confidence) >= Number(chosen.confidence || 0)
      && (!chosen.member || isWrong === (verdict === "wrong"))
      && (!chosen.missing || JSON.parse(data.missing).includes(chosen.missing))
      && (!chosen.group || (chosen.group === "*" ? data.group !== "" : data.group === chosen.group))
      && (!chosen.suggested || data.suggested === "1");
  };
  const apply = () => {
    const chosen = Object.fromEntries(new FormData(form));
    const key = chosen.sort;
    const order = cards.map((card, number) => [card, Number(card.dataset[key]), number]);
    order.sort((a, b) => b[1] - a[1] || a[2] - b[2]);
    let shown = 0;
    for (const [card] of order) {
      card.hidden = !matches(card, chosen);
      shown += card.hidden ? 0 : 1;
      list.appendChild(card);
    }
    status.textContent = status.dataset.text.replace("SHOWN", shown).replace("ALL", cards.length);
  };
  const showPair = (event) => {
    const link = event.target.closest("a.pair");
    if (!link) return;
    form.reset();
    form.elements.true.value = link.dataset.true;
    form.elements.predicted.value = link.dataset.predicted;
    apply();
  };
  document.addEventListener("click", showPair);
  form.addEventListener("input", apply);
  form.addEventListener("reset", () => setTimeout(apply));
  form.addEventListener("submit", (event) => event.preventDefault());
  apply();
})();
