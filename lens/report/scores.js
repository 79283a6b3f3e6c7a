/* The scores of pictures: for each question, what was said of a row and column of the page. Nothing is shown here.
 *
 * They are kept by "prompt's number,seed,k", so that pages of different parts of a sweep share them, and the browser
 * keeps them for the sweep (data.id) where it lets a page do so. */
"use strict";
const openScores = (data) => {
    const { layers, prompts } = data;
    const shelf = "dlens " + data.id;
    const questions = new Map([["", new Map()]]); /* of each, its scores: 1 or 0 */
    let question = "";
    let isKept = true; /* whether the browser has them */
    let saving = 0;

    const scores = () => questions.get(question);
    const keyOf = (r, c) => data.numbers[data.rows[r][0]] + "," + data.rows[r][1] + "," + layers[c].k;

    function recall() {
        try {
            const found = JSON.parse(localStorage.getItem(shelf));
            for (const [name, marks] of found?.questions ?? [])
                questions.set(name, new Map(marks.filter(([, v]) => v === 1 || v === 0)));
            if (questions.has(found?.question)) question = found.question;
        } catch {
            isKept = false; /* pages from files may have no storage */
        }
    }

    function keep() {
        clearTimeout(saving);
        saving = 0;
        const all = [...questions].map(([name, marks]) => [name, [...marks]]);
        try {
            localStorage.setItem(shelf, JSON.stringify({ question, questions: all }));
            isKept = true;
        } catch {
            isKept = false;
        }
    }

    const keepSoon = () => (saving ||= setTimeout(keep, 300));

    function flush() {
        if (saving) keep();
    }

    /* undefined: not scored */
    const get = (r, c) => scores().get(keyOf(r, c));

    function set(r, c, score) {
        if (score === undefined) scores().delete(keyOf(r, c));
        else scores().set(keyOf(r, c), score);
        keepSoon();
    }

    /* A question that has no name yet takes its scores along when it gets one; another name is another question. */
    function ask(name) {
        if (name === question) return;
        if (!questions.has(name)) questions.set(name, question ? new Map() : scores());
        if (!question) questions.set("", new Map());
        question = name;
        keepSoon();
    }

    /* ---- files of scores: prompt, a column for each k, seed ---- */

    function toCsv() {
        const records = [["prompt", ...layers.map((l) => l.k), "seed"]];
        for (const [r, [prompt, seed]] of data.rows.entries())
            records.push([prompts[prompt], ...layers.map((_, c) => get(r, c) ?? ""), seed]);
        return csv.write(records);
    }

    /* Which rows have a prompt and seed. Several may: they are taken in their order. */
    function rowsByText() {
        const found = new Map();
        for (const [r, [prompt, seed]] of data.rows.entries()) {
            const name = JSON.stringify([prompts[prompt], seed]);
            found.set(name, [...(found.get(name) ?? []), r]);
        }
        return found;
    }

    /* What a file says of this page: its scores, and how many rows, columns and cells say nothing here. null: it is no
     * such file. */
    function fromCsv(text) {
        const [head, ...records] = csv.read(text);
        const names = (head ?? []).map((s) => s.trim());
        const at = { prompt: names.indexOf("prompt"), seed: names.indexOf("seed") };
        const columns = names.map((s) => (/^\d+$/.test(s) ? layers.findIndex((l) => l.k === Number(s)) : -1));
        if (at.prompt < 0 || at.seed < 0 || !columns.some((c) => c >= 0)) return null;
        const found = rowsByText();
        const marks = new Map();
        const left = { rows: 0, cells: 0, columns: names.filter((s, i) => /^\d+$/.test(s) && columns[i] < 0).length };
        for (const record of records) {
            const seed = (record[at.seed] ?? "").trim().replace(/\.0+$/, "");
            const r = found.get(JSON.stringify([record[at.prompt], seed]))?.shift();
            if (r === undefined) {
                left.rows++;
                continue;
            }
            for (const [i, c] of columns.entries()) {
                const cell = (record[i] ?? "").trim();
                if (c < 0 || cell === "") continue;
                if (/^[01](\.0+)?$/.test(cell)) marks.set(keyOf(r, c), Number(cell));
                else left.cells++;
            }
        }
        return { marks, left };
    }

    /* Loaded scores stand in the place of the question's own. */
    function replace(marks) {
        questions.set(question, marks);
        keepSoon();
    }

    const isSame = (marks) => scores().size === marks.size && [...marks].every(([key, v]) => scores().get(key) === v);

    recall();
    return {
        get, set, ask, toCsv, fromCsv, replace, isSame, flush,
        get question() { return question; },
        get names() { return [...questions.keys()].filter(Boolean); },
        get size() { return scores().size; },
        get isSafe() { return isKept || [...questions.values()].every((marks) => !marks.size); },
    };
};
