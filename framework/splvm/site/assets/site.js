// Filters, plots and the copy button of the report. It asks for nothing and keeps nothing but the page's own address.
"use strict";

// Filters: what the form says is in the address, so that a view can be linked to.

function setUpFilter(form) {
	const show = document.querySelector(".matrix") ? filterMatrix : filterPairs;
	const count = document.getElementById("count");
	const apply = () => { count.textContent = show(new FormData(form)); };
	const remember = () => {
		const said = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
		history.replaceState(null, "", said.size ? `#${said}` : location.pathname + location.search);
		apply();
	};
	const recall = () => {
		const said = new URLSearchParams(location.hash.slice(1));
		for (const field of form.elements) {
			if (field.type === "checkbox") field.checked = said.has(field.name);
			else if (field.name) field.value = said.get(field.name) ?? "";
		}
		apply();
	};
	for (const kind of ["input", "change"]) form.addEventListener(kind, remember);
	form.addEventListener("submit", event => event.preventDefault());
	// The fields are empty only after this event.
	form.addEventListener("reset", () => setTimeout(remember));
	addEventListener("hashchange", recall);
	recall();
}

function filterMatrix(wanted) {
	const words = wanted.get("text").toLowerCase().split(/\s+/);
	const cells = [...document.querySelectorAll(".matrix td[data-verdict]")];
	const fits = ({ dataset }) =>
		["kernel", "variant", "verdict"].every(name => !wanted.get(name) || dataset[name] === wanted.get(name)) &&
		(!wanted.get("unexpected") || dataset.tone !== "expected") &&
		words.every(word => dataset.text.toLowerCase().includes(word));
	for (const cell of cells) cell.firstElementChild.hidden = !fits(cell);
	const shown = cells.filter(cell => !cell.firstElementChild.hidden);
	const rows = new Set(shown.map(cell => cell.parentElement));
	const columns = new Set(shown.map(cell => cell.cellIndex));
	for (const row of document.querySelectorAll(".matrix tr")) {
		row.hidden = row.parentElement.tagName === "TBODY" && !rows.has(row);
		for (const cell of row.cells) cell.hidden = cell.cellIndex > 1 && !columns.has(cell.cellIndex);
	}
	return `${shown.length} of ${cells.length} cells`;
}

function filterPairs(wanted) {
	const pairs = [...document.querySelectorAll(".pair")];
	for (const pair of pairs) {
		const sides = JSON.parse(pair.dataset.sides);
		const [one, other] = [wanted.get("one"), wanted.get("other")];
		const fits = (a, b) => (!one || a === one) && (!other || b === other);
		pair.hidden = (wanted.get("where") && pair.dataset.where !== wanted.get("where")) ||
			!(fits(...sides) || fits(...sides.reverse()));
	}
	return `${pairs.filter(pair => !pair.hidden).length} of ${pairs.length} pairs`;
}

// Plots: data is in the page as JSON; what depends on light and dark comes from the style sheet.

function coloursOf(layout) {
	const style = getComputedStyle(document.documentElement);
	const [fore, edge] = ["--fore", "--edge"].map(name => style.getPropertyValue(name).trim());
	const none = "rgba(0,0,0,0)";
	const changes = {
		paper_bgcolor: none, plot_bgcolor: none, "font.color": fore,
		"modebar.bgcolor": none, "modebar.color": fore, "modebar.activecolor": fore,
	};
	for (const name of Object.keys(layout)) {
		if (!/^[xy]axis\d*$/.test(name)) continue;
		for (const part of ["gridcolor", "linecolor", "zerolinecolor"]) changes[`${name}.${part}`] = edge;
	}
	return changes;
}

async function draw(place) {
	const { data, layout } = JSON.parse(document.getElementById(place.dataset.plot).textContent);
	// Set beforehand: to draw all of it a second time takes as long as the first.
	for (const [key, value] of Object.entries(coloursOf(layout))) {
		const [part, name] = key.split(".");
		if (name) layout[part] = { ...layout[part], [name]: value };
		else layout[part] = value;
	}
	await Plotly.newPlot(place, data, layout, {
		responsive: true,
		displaylogo: false,
		modeBarButtons: [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"]],
	});
	const paint = () => Plotly.relayout(place, coloursOf(layout));
	matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
	place.on("plotly_click", ({ points }) => {
		const target = points[0].customdata;
		if (/^\.\.\/runs\/[0-9a-f]+\.html$/.test(target)) location.href = target;
	});
	// What plotly measures text with is beside the page and nobody's to read.
	document.getElementById("js-plotly-tester")?.setAttribute("aria-hidden", "true");
	place.dataset.drawn = data.length;
}

// Paper is smaller than the screen: each plot is drawn anew, to fit on one sheet of A4 or Letter at the style sheet's zoom.

const PAPER = { width: 850, height: 1180 };
const drawn = () => document.querySelectorAll("[data-drawn]");
addEventListener("beforeprint", () => {
	for (const place of drawn()) {
		place.dataset.height = place.layout.height;
		Plotly.relayout(place, { width: PAPER.width, height: Math.min(place.layout.height, PAPER.height) });
	}
});
addEventListener("afterprint", () => {
	for (const place of drawn()) {
		Plotly.relayout(place, { width: null, autosize: true, height: Number(place.dataset.height) });
	}
});

// Without a secure context (a file, for one) the clipboard is not to be had: the text is selected then.

async function copy(button) {
	const source = document.getElementById(button.dataset.copy);
	getSelection().selectAllChildren(source);
	try {
		await navigator.clipboard.writeText(source.textContent);
		button.textContent = "Copied";
	} catch {
		button.textContent = "Selected";
	}
}

const form = document.getElementById("filter");
if (form) setUpFilter(form);
for (const place of document.querySelectorAll("[data-plot]")) draw(place);
for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copy(button));
