"use strict";
// Draws the figures that the page carries as data, in the colours of the page's style sheet.
(() => {
  const AXIS = 50; // pixels below a drawing for the axis and its title
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const themed = (figure) => {
    const axis = { gridcolor: colour("--line"), zerolinecolor: colour("--line"), linecolor: colour("--line") };
    const given = structuredClone(figure.layout);
    for (const trace of figure.data) {
      if (trace.type === "heatmap") trace.colorscale = [[0, colour("--low")], [1, colour("--high")]];
    }
    const font = { color: colour("--text"), family: "system-ui, sans-serif", size: 12 };
    return {
      font, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true,
      margin: { l: 56, r: 12, t: 24, b: AXIS },
      hoverlabel: { bgcolor: colour("--back"), bordercolor: colour("--line"), font },
      legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0 },
      ...given,
      xaxis: { ...axis, ...given.xaxis, title: { standoff: 8, ...given.xaxis?.title } },
      yaxis: { ...axis, automargin: true, ...given.yaxis },
    };
  };

  // The size is the element's alone: a figure that was given a height keeps the width that it had, whatever the page's.
  // A legend takes as many lines as the page's width makes it; the drawing keeps its height, the card grows.
  const fit = (id) => {
    const plot = document.getElementById(id);
    const legend = plot.querySelector(".legend");
    const bottom = AXIS + (legend ? Math.ceil(legend.getBoundingClientRect().height) + 8 : 0);
    if (bottom === plot.layout.margin.b) return;
    plot.style.height = `${figures[id].height - AXIS + bottom}px`;
    Plotly.relayout(plot, { "margin.b": bottom, autosize: true });
  };

  const draw = () => {
    for (const [id, figure] of Object.entries(figures)) {
      Plotly.react(id, figure.data, themed(figure), { displayModeBar: false }).then(() => fit(id));
    }
  };
  draw();
  const sizes = new ResizeObserver((entries) => entries.forEach(({ target }) => Plotly.Plots.resize(target).then(() => fit(target.id))));
  document.querySelectorAll(".plot").forEach((plot) => sizes.observe(plot));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
