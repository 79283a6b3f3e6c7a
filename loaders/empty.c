typedef int dl_placeholder_loaders;
