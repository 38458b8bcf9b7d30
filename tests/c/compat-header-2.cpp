#define SECOND_FILE
#include "compat-header.c"
