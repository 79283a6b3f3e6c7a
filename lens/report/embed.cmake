# Turns files into C arrays, so that the program needs no data files: cmake -DOUT=x.c -DFILES="a/page.html;..." -P this.
# a/page.html becomes report_page_html [report_page_html_bytes], as lens/report_page.h declares.
set(text "/* Made by lens/report/embed.cmake from the files in lens/report. */\n#include \"lens/report_page.h\"\n")
foreach(file IN LISTS FILES)
  get_filename_component(name ${file} NAME)
  string(MAKE_C_IDENTIFIER "report_${name}" name)
  file(SIZE ${file} bytes)
  file(READ ${file} data HEX)
  string(REGEX REPLACE "(................................)" "\\1\n" data "${data}") # 16 bytes a line
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," data "${data}")
  string(APPEND text "\nconst unsigned char ${name}[] = {\n${data}\n0};\nconst int64_t ${name}_bytes = ${bytes};\n")
endforeach()
file(WRITE ${OUT} "${text}")
