/* CSV: what RFC 4180 allows comes out cell by cell, what it does not is refused with the line. */
#include "loaders/csv.h"
#include "tests/unit/check.h"
#include "tests/unit/root.h"

/* The cells of a table as one text: "|" between cells, "/" between rows. */
static void expect(const char *text, size_t n, const char *want, const char *lines)
{
    struct csv c;
    char got[400] = "", at[100] = "";
    must(csv_open_memory(&c, text, n, "t", e));
    for (int r = 0; r < c.n_rows; r++) {
        snprintf(at + strlen(at), sizeof at - strlen(at), "%s%d", r ? "," : "", c.line[r]);
        for (int i = 0; i < c.n_columns; i++)
            snprintf(got + strlen(got), sizeof got - strlen(got), "%s%s", i ? "|" : r ? "/" : "", csv_at(&c, r, i));
    }
    assert_string_equal(got, want);
    assert_string_equal(at, lines);
    csv_close(&c);
}

static void tables(void **state)
{
    (void)state;
    static const struct {
        const char *text, *cells, *lines;
    } table[] = {
        {"a", "a", "1"},
        {"a,b\n1,2\n", "a|b/1|2", "1,2"},
        {"a,b\r\n1,2\r\n", "a|b/1|2", "1,2"},
        {"a,b\n1,2", "a|b/1|2", "1,2"},
        {"a,b\n1,2\r", "a|b/1|2", "1,2"},
        {"\xef\xbb\xbf"
         "a,b\n",
         "a|b", "1"},
        {"a,b\n,\n", "a|b/|", "1,2"},
        {"\n\na,b\n\r\n1,2\n\n", "a|b/1|2", "3,5"},
        {" a , b\n", " a | b", "1"},
        {"\"a\",\"b\"\n\"\",x\n", "a|b/|x", "1,2"},
        {"\"say \"\"hi\"\", you\",b\n", "say \"hi\", you|b", "1"},
        {"\"\"\"\"\n", "\"", "1"},
        {"\"two\nlines\r\nthree\",b\n1,2\n", "two\nlines\r\nthree|b/1|2", "1,4"},
        {"a,\"b\"", "a|b", "1"},
        {"a\rb,c\n", "a\rb|c", "1"},
        {"\xe7\x8c\xab,\xff\n", "\xe7\x8c\xab|\xff", "1"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        expect(table[i].text, strlen(table[i].text), table[i].cells, table[i].lines);
}

static void refused(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t n; /* 0: strlen */
        const char *says;
    } table[] = {
        {"", 0, "t: is empty"},
        {"\xef\xbb\xbf\r\n\n", 0, "t: is empty"},
        {"a,b\n1,2\n3\n", 0, "t: line 3 has 1 cell and the header has 2"},
        {"a,b\n\"x\ny\",2\n3,4,5\n", 0, "t: line 4 has 3 cells and the header has 2"},
        {"a,b\n1,\"2\n3,4\n", 0, "t: line 2, cell 2: the quote that begins this cell never closes"},
        {"\"", 0, "t: line 1, cell 1: the quote that begins"},
        {"\"\"\"", 0, "never closes"},
        {"a,b\n1,2\"\n", 0, "t: line 2, cell 2: a quote inside of a cell"},
        {"a,\"b\"c\n", 0, "t: line 1, cell 2: text behind the closing quote"},
        {"\"a\nb\" ,c\n", 0, "t: line 2, cell 1: text behind the closing quote"},
        {"\"a\"\rb\n", 0, "text behind the closing quote"},
        {"a,b\n\0,2\n", 7, "t: a zero byte at byte 4"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct csv c;
        struct dl_err e = {0};
        size_t n = table[i].n ? table[i].n : strlen(table[i].text);
        assert_int_equal(csv_open_memory(&c, table[i].text, n, "t", &e), -1);
        if (!strstr(e.msg, table[i].says)) fail_msg("\"%s\" is not in \"%s\"", table[i].says, e.msg);
        assert_int_equal(e.code, DL_EINPUT);
        assert_null(c.cell);
    }
}

static void limits(void **state)
{
    (void)state;
    char *text = malloc(CSV_MAX_BYTES + 1);
    struct csv c;
    struct dl_err e = {0};
    assert_non_null(text);
    memset(text, ',', CSV_MAX_BYTES + 1);
    must(csv_open_memory(&c, text, CSV_MAX_COLUMNS - 1, "t", e));
    assert_int_equal(c.n_columns, CSV_MAX_COLUMNS);
    csv_close(&c);
    assert_int_equal(csv_open_memory(&c, text, CSV_MAX_COLUMNS, "t", &e), -1);
    assert_non_null(strstr(e.msg, "t: line 1 has more than 4096 cells"));
    e = (struct dl_err){0};
    assert_int_equal(csv_open_memory(&c, text, CSV_MAX_BYTES + 1, "t", &e), -1);
    assert_non_null(strstr(e.msg, "t: has 16777217 bytes, more than the 16777216"));
    /* As many rows as there can be. */
    for (int i = 0; i < CSV_MAX_BYTES; i++) text[i] = i % 2 ? '\n' : 'x';
    must(csv_open_memory(&c, text, CSV_MAX_BYTES, "t", e));
    assert_int_equal(c.n_rows, CSV_MAX_BYTES / 2);
    assert_int_equal(c.line[c.n_rows - 1], CSV_MAX_BYTES / 2);
    csv_close(&c);
    free(text);
}

static void files(void **state)
{
    (void)state;
    struct csv c;
    struct dl_err e = {0};
    assert_int_equal(folder_write(in_root("a.csv"), "a,b\n1,2\n", 8), 0);
    must(csv_open(&c, in_root("a.csv"), e));
    assert_string_equal(csv_at(&c, 1, 1), "2");
    csv_close(&c);
    csv_close(&c); /* closed is as good as zeroed */
    assert_int_equal(folder_write(in_root("b.csv"), "a,b\n1\n", 6), 0);
    assert_int_equal(csv_open(&c, in_root("b.csv"), &e), -1);
    assert_non_null(strstr(e.msg, "/b.csv: line 2 has 1 cell"));
    e = (struct dl_err){0};
    assert_int_equal(csv_open(&c, in_root("none.csv"), &e), -1);
    assert_int_equal(e.code, DL_EINPUT);
    assert_non_null(strstr(e.msg, "none.csv: cannot open: No such file"));
    e = (struct dl_err){0};
    assert_int_equal(csv_open(&c, root, &e), -1);
    assert_non_null(strstr(e.msg, "is not a file"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables),
        cmocka_unit_test(refused),
        cmocka_unit_test(limits),
        cmocka_unit_test(files),
    };
    return cmocka_run_group_tests(tests, root_make, root_remove);
}
