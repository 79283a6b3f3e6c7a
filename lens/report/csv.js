/* Comma-separated values as RFC 4180 has them: fields with commas, quotes or line ends stand in quotes. */
"use strict";
const csv = (() => {
    /* The records of a CSV, each a list of fields. Quotes may hold commas, line ends and doubled quotes. */
    function read(text) {
        const records = [];
        let record = [];
        let field = "";
        let inside = false;
        const endField = () => {
            record.push(field);
            field = "";
        };
        const endRecord = () => {
            endField();
            if (record.length > 1 || record[0] !== "") records.push(record);
            record = [];
        };
        for (let i = text.startsWith("\ufeff") ? 1 : 0; i < text.length; i++) {
            const ch = text[i];
            if (inside && ch === '"' && text[i + 1] === '"') field += text[++i];
            else if (ch === '"' && (inside || field === "")) inside = !inside;
            else if (inside || !/[,\r\n]/.test(ch)) field += ch;
            else if (ch === ",") endField();
            else if (ch === "\n" || text[i + 1] !== "\n") endRecord();
        }
        if (field || record.length) endRecord();
        return records;
    }

    const isPlain = (text) => !/[",\r\n]/.test(text) && text === text.trim();
    const quoted = (text) => (isPlain(text) ? text : '"' + text.replaceAll('"', '""') + '"');
    const write = (records) => records.map((r) => r.map((field) => quoted(String(field))).join(",") + "\r\n").join("");

    return { read, write };
})();
