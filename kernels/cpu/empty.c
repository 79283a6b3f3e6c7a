typedef int dl_placeholder_cpu;
