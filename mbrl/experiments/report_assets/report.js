"use strict";
// Reads values out of charts, under the pointer and for the arrow keys, and hides lines from the legend. All text goes
// in as text, never as markup.
(() => {
  const NEAR = 14; // on a chart's canvas: points farther from the cursor belong to another place

  const make = (name, parent, text = "", classes = "") => {
    const made = document.createElement(name);
    made.textContent = text;
    if (classes) made.setAttribute("class", classes);
    parent.append(made);
    return made;
  };

  const hoverable = (svg) => {
    const tip = make("div", svg.parentNode, "", "tip");
    tip.hidden = true;
    tip.setAttribute("role", "status");
    const cursor = svg.querySelector(".cursor");
    const all = [...svg.querySelectorAll(".series")].map((element) => ({
      element, label: element.dataset.label, points: JSON.parse(element.dataset.points), dot: element.querySelector(".point"),
    }));
    const visible = () => all.filter((series) => !series.element.classList.contains("off"));
    const places = () => [...new Set(visible().flatMap((series) => series.points.map((point) => point[0])))].sort((a, b) => a - b);
    let at = null;

    const hide = () => {
      at = null;
      tip.hidden = true;
      for (const element of svg.querySelectorAll(".on")) element.classList.remove("on");
    };
    // Beside the cursor where the window has room for it, else below the chart: never on top of what is looked at.
    const place = (x) => {
      const frame = svg.parentNode.getBoundingClientRect();
      const box = svg.getBoundingClientRect();
      const at = box.left + (x / svg.viewBox.baseVal.width) * box.width;
      const width = tip.offsetWidth + 14;
      const page = document.documentElement.clientWidth;
      const beside = at + width <= page ? at + 14 : at - width >= 0 ? at - width : null;
      tip.style.left = `${beside === null ? box.left - frame.left : beside - frame.left}px`;
      tip.style.top = `${(beside === null ? box.bottom : box.top + 8) - frame.top}px`;
    };
    const show = (x) => {
      hide();
      at = x;
      const rows = [];
      for (const series of visible()) {
        const near = series.points.reduce((best, point) => (Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best));
        if (Math.abs(near[0] - x) <= NEAR) rows.push([series, near]);
      }
      if (!rows.length) return hide();
      const nearest = rows.reduce((best, row) => (Math.abs(row[1][0] - x) < Math.abs(best[1][0] - x) ? row : best));
      tip.replaceChildren();
      make("b", tip, `${nearest[1][2]} ${svg.dataset.x}`);
      for (const [series, point] of rows) {
        const row = make("div", tip, "", series.element.getAttribute("class").replace("series", ""));
        make("i", row);
        make("span", row, `${series.label}: ${point[3]}${point[2] === nearest[1][2] ? "" : ` at ${point[2]}`}`);
        series.dot.setAttribute("cx", point[0]);
        series.dot.setAttribute("cy", point[1]);
        series.dot.classList.add("on");
      }
      cursor.setAttribute("x1", x);
      cursor.setAttribute("x2", x);
      cursor.classList.add("on");
      tip.hidden = false;
      place(x);
    };
    const pointed = (event) => {
      const x = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse()).x;
      const known = places();
      if (known.length) show(known.reduce((best, place) => (Math.abs(place - x) < Math.abs(best - x) ? place : best)));
    };
    svg.addEventListener("pointermove", pointed);
    svg.addEventListener("pointerdown", pointed);
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      const known = places();
      const now = at === null ? -1 : known.indexOf(at);
      const last = known.length - 1;
      const next = { ArrowRight: Math.min(now + 1, last), ArrowLeft: now < 0 ? last : Math.max(now - 1, 0), Home: 0, End: last }[event.key];
      if (event.key === "Escape") hide();
      if (next === undefined || last < 0) return;
      event.preventDefault();
      show(known[next]);
    });
  };
  document.querySelectorAll("svg.hover").forEach(hoverable);

  for (const button of document.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const off = button.getAttribute("aria-pressed") === "true";
      for (const other of document.querySelectorAll(".legend button")) {
        if (other.dataset.label === button.dataset.label) other.setAttribute("aria-pressed", String(!off));
      }
      for (const element of document.querySelectorAll(".series, .band")) {
        if (element.dataset.label === button.dataset.label) element.classList.toggle("off", off);
      }
    });
  }

  // Paper can't be clicked on.
  const closed = new Set();
  addEventListener("beforeprint", () => {
    for (const element of document.querySelectorAll("details:not([open])")) {
      closed.add(element);
      element.open = true;
    }
  });
  addEventListener("afterprint", () => {
    for (const element of closed) element.open = false;
    closed.clear();
  });
})();
