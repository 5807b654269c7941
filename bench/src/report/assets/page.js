// Shows the values of the point that is nearest to the pointer, or that the arrow keys chose.
// The charts themselves are in the page without this script.
"use strict";

function nearest(places, place) {
  let low = 0;
  let high = places.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (places[middle] < place) low = middle;
    else high = middle;
  }
  return place - places[low] < places[high] - place ? low : high;
}

function line(className, name, text) {
  const row = document.createElement("div");
  const key = document.createElement("span");
  key.className = "key " + className;
  const value = document.createElement("b");
  value.textContent = text;
  row.append(key, name + " ", value);
  return row;
}

function follow(plot) {
  const data = JSON.parse(plot.querySelector("script").textContent);
  const svg = plot.querySelector("svg");
  const hair = svg.querySelector(".hair");
  const spots = svg.querySelectorAll(".spot");
  const tip = plot.querySelector(".tip");
  let shown = -1;

  function hide() {
    shown = -1;
    tip.hidden = true;
    hair.setAttribute("visibility", "hidden");
    spots.forEach((spot) => spot.setAttribute("visibility", "hidden"));
  }

  function show(index) {
    shown = Math.max(0, Math.min(data.x.length - 1, index));
    const x = data.x[shown];
    hair.setAttribute("x1", x);
    hair.setAttribute("x2", x);
    hair.setAttribute("visibility", "visible");
    const title = document.createElement("div");
    title.textContent = data.label[shown];
    tip.replaceChildren(title);
    data.series.forEach((series, number) => {
      const y = series.y[shown];
      spots[number].setAttribute("visibility", y === null ? "hidden" : "visible");
      if (y === null) return;
      spots[number].setAttribute("cx", x);
      spots[number].setAttribute("cy", y);
      tip.append(line(series.class, series.name, series.text[shown]));
    });
    tip.hidden = false;
    // Beside the hair, on the side with more room.
    const width = svg.viewBox.baseVal.width;
    const place = (x / width) * svg.clientWidth;
    const left = x < width / 2 ? place + 14 : place - 14 - tip.offsetWidth;
    tip.style.left = Math.max(0, left) + "px";
  }

  svg.addEventListener("pointermove", (event) => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    show(nearest(data.x, point.x));
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const last = data.x.length - 1;
    const target = { ArrowLeft: shown - 1, ArrowRight: shown + 1, Home: 0, End: last, Escape: -1 }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    if (event.key === "Escape") hide();
    else show(target);
  });
}

document.querySelectorAll(".plot").forEach(follow);
document.querySelectorAll("time").forEach((time) => {
  const date = new Date(time.dataset.seconds * 1000);
  time.dateTime = date.toISOString();
  time.textContent = date.toISOString().replace("T", " ").replace(/\.\d+Z/, " UTC");
  time.title = date.toLocaleString();
});
