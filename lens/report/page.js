/* The script of `dlens report`. One table holds every picture once; the views only show it differently (page.css), so
 * nothing is copied. A row is a prompt and seed, a column a layer; both count from 0 here, and only files and links
 * speak of k. Text from the sweep or from a loaded file goes into the page as textContent alone. */
"use strict";
(() => {
    const $ = (id) => document.getElementById(id);
    const root = document.documentElement;
    const data = JSON.parse($("data").textContent);
    const { layers, prompts } = data;
    const rows = [...$("pictures").tBodies[0].rows];
    const cells = rows.map((tr) => [...tr.cells].slice(1));
    const pictures = cells.map((line) => line.map((td) => td.querySelector("img"))); /* null: missing */
    const last = layers.length - 1;
    const promptOf = (r) => prompts[data.rows[r][0]];
    const seedOf = (r) => data.rows[r][1];

    let view = "slider";
    let row = 0; /* the current picture: where keys act */
    let layer = 0;
    let scoring = false;
    let timer = 0; /* of playing */

    const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
    const picture = (r, c) => pictures[r][c];
    const isShown = (r) => !rows[r].hidden;

    function press(button, on) {
        button.setAttribute("aria-pressed", String(on));
    }

    /* The shown row after r in direction `by`, or -1. */
    function nextRow(r, by) {
        do r += by;
        while (r >= 0 && r < rows.length && !isShown(r));
        return r < rows.length ? r : -1;
    }

    /* ---- the current picture ---- */

    function moveTo(r, c) {
        const was = cells[row][layer];
        was.classList.remove("at");
        was.tabIndex = -1;
        if (c !== layer) {
            for (const line of cells) {
                line[layer].classList.remove("on");
                line[c].classList.add("on");
            }
        }
        row = r;
        layer = c;
        const now = cells[row][layer];
        now.classList.add("at");
        now.tabIndex = 0;
        if (was !== now && document.activeElement === was) now.focus({ preventScroll: view === "slider" });
        $("layer").value = String(layer);
        $("layer").setAttribute("aria-valuetext", layers[layer].title);
        $("layer-name").textContent = layers[layer].title;
        $("caption").textContent = view === "slider" ? layers[layer].title : "One row for each prompt and seed";
        for (const [i, tick] of [...$("ticks").children].entries()) tick.classList.toggle("on", i === layer);
        if ($("large").open) fillLarge();
        keepLink();
        decodeNeighbours();
    }

    /* The next pictures are decoded before they are asked for, so that a step shows no gap. */
    function decodeNeighbours() {
        if (view !== "slider" || rows.length > 60) return;
        for (const c of [layer + 1, layer - 1])
            if (c >= 0 && c <= last) for (const line of pictures) line[c]?.decode().catch(() => {});
    }

    /* Makes the current picture visible and, when keys led there, focused. */
    function reveal(focus) {
        const now = cells[row][layer];
        if (focus) now.focus({ preventScroll: true });
        now.scrollIntoView({ block: "nearest", inline: "nearest" });
    }

    /* ---- views, size, link ---- */

    function show(name) {
        view = name;
        root.dataset.view = view;
        const cards = view === "slider";
        press($("view-slider"), cards);
        press($("view-table"), !cards);
        /* A list of cards and a grid of cells are different things to those who hear the page. */
        $("pictures").setAttribute("role", cards ? "list" : "grid");
        $("pictures").tBodies[0].setAttribute("role", cards ? "presentation" : "rowgroup");
        for (const tr of rows) {
            tr.setAttribute("role", cards ? "listitem" : "row");
            tr.cells[0].setAttribute("role", cards ? "presentation" : "rowheader");
        }
        for (const line of cells) for (const td of line) td.setAttribute("role", cards ? "button" : "gridcell");
        if (!cards) stop();
        setSize(sizes[view]);
        moveTo(row, layer);
        if (!cards) reveal(false);
        layTicks();
    }

    /* All pictures of a sweep have one format. Those of few pixels grow by whole factors: their pixels stay square. */
    const first = pictures.flat().find(Boolean);
    const [width, height] = ["width", "height"].map((name) => Number(first?.getAttribute(name) ?? 256));
    const natural = Math.max(width, height);
    const dots = first?.classList.contains("dots") ?? false;
    const unit = dots ? natural : 16;
    const whole = (px) => Math.max(unit, Math.floor(px / unit) * unit);
    const sizes = { slider: 0, table: 0 };

    /* The largest size at which all columns are seen at once, within reason. */
    function goodTableSize() {
        const wide = root.clientWidth - 48 - clamp(root.clientWidth * 0.18, 104, 240);
        return whole(clamp(wide / layers.length - 8, 96, 256) * (natural / width));
    }

    /* The same for all cards, below a head of about 240 pixels; a card has about 84 pixels of text and gap. */
    function goodSize() {
        const wide = root.clientWidth - 48;
        const high = root.clientHeight - 240;
        if (wide < 520) return whole(((rows.length > 1 ? wide / 2 : wide + 16) * natural) / width);
        const least = whole(dots ? 128 : 192);
        let px = Math.max(least, whole(Math.min(dots ? 384 : Math.max(natural, 384), high - 60)));
        const across = () => Math.max(1, Math.floor((wide + 24) / ((px * width) / natural + 24)));
        const down = () => Math.ceil(rows.length / across()) * ((px * height) / natural + 84);
        while (px > least && down() > high) px -= unit;
        return px;
    }

    function setSize(px) {
        sizes[view] = px;
        root.style.setProperty("--size", px + "px");
        root.style.setProperty("--wide", Math.round((px * width) / natural) + "px");
        $("size").value = String(px);
        $("size").setAttribute("aria-valuetext", px + " pixels");
    }

    function openSizes() {
        const size = $("size");
        root.style.setProperty("--format", String(width / height));
        size.min = String(dots ? natural : 64);
        size.step = String(unit);
        size.max = String(dots ? whole(512 + natural - 1) : 1024);
        sizes.slider = goodSize();
        sizes.table = goodTableSize();
        size.addEventListener("input", () => setSize(Number(size.value)));
    }

    /* A link to this page shows the same view and layer. */
    function keepLink() {
        const hash = "#view=" + view + "&layer=" + layers[layer].k;
        if (location.hash === hash) return;
        try {
            history.replaceState(null, "", hash);
        } catch {
            /* some browsers refuse that for a file: the page works without */
        }
    }

    function followLink() {
        const asked = new URLSearchParams(location.hash.slice(1));
        const c = layers.findIndex((l) => String(l.k) === asked.get("layer"));
        if (c >= 0) moveTo(row, c);
        show(asked.get("view") === "table" ? "table" : "slider");
    }

    /* ---- the slider ---- */

    function layTicks() {
        const box = $("ticks");
        const all = [...box.children];
        const room = box.clientWidth - 16; /* a thumb's middle moves this far */
        for (const [i, tick] of all.entries()) {
            tick.hidden = false;
            tick.style.left = (i ? 8 + (last ? (room * i) / last : 0) : 0) + "px";
        }
        if (!room || view !== "slider") return;
        /* As many as fit, at even distances; the first and the last always. */
        const spans = all.map((t) => [t.offsetLeft, t.offsetWidth]);
        const left = (i) => spans[i][0] - (i ? spans[i][1] / 2 : 0);
        const fits = (i, j) => left(j) - left(i) >= spans[i][1];
        let step = 1;
        const kept = () => all.map((_, i) => i).filter((i) => i % step === 0);
        while (step < all.length && kept().some((i, at, list) => at > 1 && !fits(list[at - 1], i))) step++;
        const keep = kept();
        while (keep.length > 1 && !fits(0, keep[1])) keep.splice(1, 1);
        while (keep.length > 1 && keep.at(-1) !== last && !fits(keep.at(-1), last)) keep.pop();
        for (const [i, tick] of all.entries()) tick.hidden = i !== last && !keep.includes(i);
    }

    function openSlider() {
        $("layer").max = String(last);
        $("layer").addEventListener("input", () => moveTo(row, Number($("layer").value)));
        for (const [i, l] of layers.entries()) {
            const tick = document.createElement("span");
            tick.textContent = l.tick;
            tick.addEventListener("click", () => moveTo(row, i));
            $("ticks").append(tick);
        }
        root.classList.toggle("long-names", layers.some((l) => l.title.length > 8));
        $("play").addEventListener("click", () => (timer ? stop() : play()));
        $("speed").addEventListener("change", () => timer && play());
        new ResizeObserver(layTicks).observe($("ticks"));
    }

    function play() {
        clearInterval(timer);
        timer = setInterval(() => moveTo(row, layer === last ? 0 : layer + 1), Number($("speed").value));
        root.classList.add("playing");
        $("play").setAttribute("aria-label", "Pause");
    }

    function stop() {
        clearInterval(timer);
        timer = 0;
        root.classList.remove("playing");
        $("play").setAttribute("aria-label", "Play");
    }

    /* ---- the filter ---- */

    const folded = (text) => text.normalize("NFKC").toLowerCase();

    function filter() {
        const words = folded($("filter").value).split(/\s+/).filter(Boolean);
        let n = 0;
        for (const [r, tr] of rows.entries()) {
            const text = words.length ? folded(promptOf(r)) : "";
            tr.hidden = !words.every((w) => text.includes(w));
            n += !tr.hidden;
        }
        $("shown").textContent = words.length ? n + " of " + rows.length : "";
        $("none").hidden = n > 0;
        if (n && !isShown(row)) moveTo(Math.max(nextRow(row, 1), nextRow(-1, 1)), layer);
    }

    /* ---- the large view ---- */

    function fillLarge() {
        $("large-prompt").textContent = promptOf(row);
        $("large-title").textContent = layers[layer].title;
        $("large-seed").textContent = "· seed " + seedOf(row);
        $("large-back").disabled = layer === 0;
        $("large-on").disabled = layer === last;
        $("large-marks").hidden = !scoring;
        press($("large-yes"), scores.get(row, layer) === 1);
        press($("large-no"), scores.get(row, layer) === 0);
        /* The text is there, so the stage has its size. */
        const from = picture(row, layer);
        const to = $("large-picture");
        to.hidden = !from;
        $("large-missing").hidden = Boolean(from);
        if (from) {
            const w = Number(from.getAttribute("width"));
            const h = Number(from.getAttribute("height"));
            const stage = $("large-picture").parentElement;
            let grow = Math.min((stage.clientWidth - 40) / w, (stage.clientHeight - 40) / h);
            if (from.classList.contains("dots") && grow > 1) grow = Math.floor(grow);
            to.src = from.src;
            to.alt = from.alt;
            to.className = from.className;
            to.style.width = Math.max(1, Math.round(w * grow)) + "px";
            to.style.height = Math.max(1, Math.round(h * grow)) + "px";
        }
    }

    function enlarge() {
        stop();
        $("large").showModal();
        fillLarge();
    }

    function openLarge() {
        const large = $("large");
        const step = (by) => moveTo(row, clamp(layer + by, 0, last));
        $("large-back").addEventListener("click", () => step(-1));
        $("large-on").addEventListener("click", () => step(1));
        $("large-close").addEventListener("click", () => large.close());
        $("large-yes").addEventListener("click", () => toggleMark(1));
        $("large-no").addEventListener("click", () => toggleMark(0));
        $("large-picture").parentElement.addEventListener("click", () => large.close());
        large.addEventListener("close", () => {
            $("large-picture").removeAttribute("src");
            reveal(true);
        });
        window.addEventListener("resize", () => large.open && fillLarge());
    }

    /* ---- scores ---- */

    const scores = openScores(data);
    const say = (text) => ($("said").textContent = text);

    function showScore(r, c) {
        const score = scores.get(r, c);
        const td = cells[r][c];
        td.classList.toggle("yes", score === 1);
        td.classList.toggle("no", score === 0);
        if (scoring && score !== undefined) td.setAttribute("aria-description", score ? "scored yes" : "scored no");
        else td.removeAttribute("aria-description");
    }

    function showCount() {
        let done = 0;
        let all = 0;
        for (const [r, line] of pictures.entries())
            for (const [c, img] of line.entries()) {
                if (!img) continue;
                all++;
                done += scores.get(r, c) !== undefined;
            }
        $("count").textContent = done + " of " + all + " scored";
    }

    function showScores() {
        for (const [r, line] of cells.entries()) for (const c of line.keys()) showScore(r, c);
        $("question").value = scores.question;
        const options = scores.names.map((name) => {
            const option = document.createElement("option");
            option.value = name;
            return option;
        });
        $("questions").replaceChildren(...options);
        showCount();
    }

    /* undefined: not scored */
    function mark(r, c, score) {
        if (!picture(r, c)) return;
        scores.set(r, c, score);
        say("");
        showScore(r, c);
        showCount();
        if ($("large").open) fillLarge();
    }

    function toggleMark(score) {
        mark(row, layer, scores.get(row, layer) === score ? undefined : score);
    }

    /* The next picture to look at: down the cards of a layer, along the rows of the table; at the end it stays. */
    function goOn() {
        const next = nextRow(row, 1);
        const top = nextRow(-1, 1);
        let to = null;
        if (view === "slider") to = next >= 0 ? [next, layer] : layer < last ? [top, layer + 1] : null;
        else to = layer < last ? [row, layer + 1] : next >= 0 ? [next, 0] : null;
        if (!to) return;
        moveTo(...to);
        if (!$("large").open) reveal(true);
    }

    function ask(name) {
        scores.ask(name);
        say("");
        showScores();
    }

    function setScoring(on) {
        scoring = on;
        root.classList.toggle("scoring", on);
        press($("score"), on);
        $("scores").hidden = !on;
        $("keys").hidden = on;
        showScores();
    }

    function saveScores() {
        if (!scores.question) {
            say("Name the question first.");
            $("question").focus();
            return;
        }
        const link = document.createElement("a");
        link.href = URL.createObjectURL(new Blob([scores.toCsv()], { type: "text/csv" }));
        link.download = data.folder + "_" + scores.question.replaceAll(/[^\p{L}\p{N}_-]+/gu, "-") + ".csv";
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 60000);
        say("Saved as " + link.download + ".");
    }

    /* The file's name tells the question where this page wrote it. */
    function loadScores(name, text) {
        const found = scores.fromCsv(text);
        if (!found) return say(name + " has no columns prompt, seed and this page's layers.");
        const { marks, left } = found;
        const begin = data.folder + "_";
        const copy = / ?\(\d+\)$/; /* what a browser adds to the name of a second download */
        if (name.startsWith(begin) && /.\.csv$/i.test(name)) ask(name.slice(begin.length, -4).replace(copy, ""));
        const own = scores.size + " scores" + (scores.question ? " of " + scores.question : "");
        const isNew = scores.size && !scores.isSame(marks);
        if (isNew && !confirm("Replace " + own + " by " + marks.size + " from " + name + "?")) return say("");
        scores.replace(marks);
        showScores();
        const told = [
            [marks.size, "score loaded", "scores loaded"],
            [left.rows, "row has no picture here", "rows have no picture here"],
            [left.columns, "column is of a layer that is not here", "columns are of layers that are not here"],
            [left.cells, "cell is neither 1 nor 0", "cells are neither 1 nor 0"],
        ];
        const shown = told.filter(([n], i) => n || !i);
        return say(shown.map(([n, one, more]) => n + " " + (n === 1 ? one : more) + ".").join(" "));
    }

    function openScoring() {
        $("score").addEventListener("click", () => setScoring(!scoring));
        $("question").addEventListener("change", () => ask($("question").value.trim()));
        /* Enter ends the name: from then on keys are scores. */
        $("question").addEventListener("keydown", (e) => {
            if (e.key !== "Enter" || e.isComposing) return;
            e.preventDefault();
            reveal(true);
        });
        $("save").addEventListener("click", saveScores);
        $("load").addEventListener("click", () => $("file").click());
        $("file").addEventListener("change", async () => {
            const file = $("file").files[0];
            $("file").value = ""; /* the same file may be chosen again */
            if (file) loadScores(file.name, await file.text());
        });
        window.addEventListener("pagehide", scores.flush);
        window.addEventListener("beforeunload", (e) => {
            scores.flush();
            if (!scores.isSafe) e.preventDefault();
        });
    }

    /* ---- keys and clicks ---- */

    /* Where a key belongs to the control that has the focus. */
    function isControls(target, key) {
        if (target.matches("input[type=text], input[type=search], select")) return true;
        if (target.matches("input[type=range]"))
            return target.id !== "layer" || !/^([01 ]|Backspace|Delete)$/.test(key);
        return target.matches("button, summary, a") && (key === " " || key === "Enter");
    }

    function steer(key) {
        const large = $("large").open;
        const inPictures = $("pictures").contains(document.activeElement);
        const inRows = large || scoring || inPictures;
        const inTable = inRows || view === "slider";
        const across = { ArrowLeft: layer - 1, ArrowRight: layer + 1, Home: 0, End: last };
        const down = { ArrowUp: -1, ArrowDown: 1 };
        if (key in across && inTable) {
            stop();
            moveTo(row, clamp(across[key], 0, last));
            if (view === "table" && !large) reveal(true);
        } else if (key in down && inRows) {
            const r = nextRow(row, down[key]);
            if (r >= 0) moveTo(r, layer);
            if (!large) reveal(true);
        } else if (key === " " && view === "slider" && !large) {
            if (timer) stop();
            else play();
        } else if (key === "Enter" && !large && inPictures) {
            enlarge();
        } else if (scoring && (key === "1" || key === "0")) {
            mark(row, layer, Number(key));
            goOn();
        } else if (scoring && (key === "Backspace" || key === "Delete")) {
            mark(row, layer, undefined);
        } else {
            return false;
        }
        return true;
    }

    function openKeys() {
        document.addEventListener("keydown", (e) => {
            if (e.ctrlKey || e.metaKey || e.altKey || e.isComposing || isControls(e.target, e.key)) return;
            if (steer(e.key)) e.preventDefault();
        });
        $("pictures").tBodies[0].addEventListener("click", (e) => {
            const td = e.target.closest("td");
            if (!td || !e.target.closest(".frame")) return;
            const r = rows.indexOf(td.parentElement);
            const c = cells[r].indexOf(td);
            moveTo(r, c);
            td.focus({ preventScroll: true });
            if (scoring) mark(r, c, new Map([[undefined, 1], [1, 0]]).get(scores.get(r, c)));
            else enlarge();
        });
    }

    function open() {
        root.classList.add("js");
        $("bar").hidden = false;
        $("keys").hidden = false;
        $("filter-field").hidden = prompts.length < 2;
        for (const id of ["play", "track", "speed"]) $(id).hidden = layers.length < 2;
        for (const line of cells) {
            for (const td of line) td.tabIndex = -1;
            line[0].classList.add("on");
        }
        openSizes();
        openSlider();
        openLarge();
        openScoring();
        openKeys();
        $("view-slider").addEventListener("click", () => show("slider"));
        $("view-table").addEventListener("click", () => show("table"));
        $("filter").addEventListener("input", filter);
        window.addEventListener("hashchange", followLink);
        new ResizeObserver(() => {
            const above = view === "slider" ? $("player").offsetTop - 8 : 0;
            root.style.setProperty("--bar", $("bar").offsetHeight + "px");
            root.style.setProperty("--tools", above + "px");
        }).observe($("bar"));
        setScoring(false);
        followLink();
    }

    open();
})();
