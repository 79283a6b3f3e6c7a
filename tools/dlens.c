#include <stdio.h>
int main(void)
{
    puts("dlens");
    return 0;
}
