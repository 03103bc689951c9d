"use strict";
document.documentElement.classList.add("js");

(() => {
  const form = document.querySelector(".filters");
  if (!form) return;
  const faults = [...document.querySelectorAll(".fault")];
  const apply = () => {
    const severities = [...form.querySelectorAll("[name=severity]:checked")].map((box) => box.value);
    const component = form.elements.component ? form.elements.component.value : "*";
    const words = form.elements.words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const fault of faults) {
      const text = fault.textContent.toLowerCase();
      const fits =
        severities.includes(fault.dataset.severity) &&
        (component === "*" || component === "=" + fault.dataset.component) &&
        words.every((word) => text.includes(word));
      fault.hidden = !fits;
      shown += fits;
    }
    for (const none of document.querySelectorAll(".none")) {
      none.hidden = [...none.parentElement.querySelectorAll(".fault")].some((fault) => !fault.hidden);
    }
    form.querySelector("output").textContent = shown + " of " + faults.length + " faults shown";
  };
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  apply();
})();

for (const player of document.querySelectorAll(".player")) {
  const { count, columns, width, height } = Object.fromEntries(
    Object.entries(player.dataset).map(([key, value]) => [key, Number(value)]),
  );
  const shown = player.dataset.shown.split(",");
  const screens = [...player.querySelectorAll("figure")].map((figure) => ({
    canvas: figure.querySelector("canvas"),
    sheet: figure.querySelector("img"),
  }));
  const play = player.querySelector(".play");
  const seek = player.querySelector("[type=range]");
  const said = player.querySelector(".controls output");
  const speed = player.querySelector(".speed");
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  let frame = 0;
  let timer = null;

  for (const { canvas } of screens) canvas.classList.toggle("pixels", width < 128);

  const show = (number) => {
    frame = (number + count) % count;
    for (const { canvas, sheet } of screens) {
      const left = (frame % columns) * width;
      const top = Math.floor(frame / columns) * height;
      canvas.getContext("2d").drawImage(sheet, left, top, width, height, 0, 0, width, height);
    }
    seek.value = frame;
    said.textContent = "frame " + shown[frame];
    player.dataset.frame = frame;
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
    play.setAttribute("aria-pressed", "false");
  };
  const start = () => {
    clearInterval(timer);
    timer = setInterval(() => show(frame + 1), 1000 / Number(speed.value));
    play.textContent = "Pause";
    play.setAttribute("aria-pressed", "true");
  };
  const step = (by) => {
    stop();
    show(frame + by);
  };

  play.addEventListener("click", () => (timer ? stop() : start()));
  player.querySelector(".back").addEventListener("click", () => step(-1));
  player.querySelector(".on").addEventListener("click", () => step(1));
  seek.addEventListener("input", () => {
    stop();
    show(Number(seek.value));
  });
  speed.addEventListener("change", () => timer && start());
  still.addEventListener("change", () => still.matches && stop());
  Promise.all(screens.map(({ sheet }) => sheet.decode())).then(() => {
    show(0);
    if (!still.matches && count > 1) start();
    player.dataset.ready = "yes";
  });
}

for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", () => {
    const code = button.parentElement.querySelector("code");
    getSelection().selectAllChildren(code);
    const done = () => (button.textContent = "Copied");
    if (navigator.clipboard) navigator.clipboard.writeText(code.textContent).then(done, () => {});
    else if (document.execCommand("copy")) done();
  });
}

const target = () => {
  const place = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const details = place && place.closest("details");
  if (details) details.open = true;
};
addEventListener("hashchange", target);
target();
