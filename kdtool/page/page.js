"use strict";
// Draws the figures that the page carries as data, in the colours of the page's style sheet.
(() => {
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
      font, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", height: figure.height,
      margin: { l: 56, r: 12, t: 24, b: 76 },
      hoverlabel: { bgcolor: colour("--back"), bordercolor: colour("--line"), font },
      legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0 },
      ...given,
      xaxis: { ...axis, ...given.xaxis, title: { standoff: 8, ...given.xaxis?.title } },
      yaxis: { ...axis, ...given.yaxis },
    };
  };

  const draw = () => {
    for (const [id, figure] of Object.entries(figures)) {
      Plotly.react(document.getElementById(id), figure.data, themed(figure), { displayModeBar: false });
    }
  };
  draw();
  const sizes = new ResizeObserver((entries) => entries.forEach((entry) => Plotly.Plots.resize(entry.target)));
  document.querySelectorAll(".plot").forEach((plot) => sizes.observe(plot));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
