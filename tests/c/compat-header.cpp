#include "compat-header.c"
