/* Stands in for the ONNX Runtime that the JNI library was linked to, and hands out that of the Python package, which
 * ORT_REAL_LIB names. ONNX Runtime's interface only grows, so an older JNI library works with a newer runtime; the two
 * functions it is linked to have the version of the old one, see shim.map. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

static void *symbol(const char *name) {
    static void *library;
    const char *path = getenv("ORT_REAL_LIB");
    if (!library && path) library = dlopen(path, RTLD_NOW);
    void *found = library ? dlsym(library, name) : NULL;
    if (!found) {
        fprintf(stderr, "ORT_REAL_LIB names no ONNX Runtime: %s\n", path ? path : "not set");
        abort();
    }
    return found;
}

const void *OrtGetApiBase(void) {
    return ((const void *(*)(void))symbol("OrtGetApiBase"))();
}

void *OrtSessionOptionsAppendExecutionProvider_CPU(void *options, int use_arena) {
    const char *name = "OrtSessionOptionsAppendExecutionProvider_CPU";
    return ((void *(*)(void *, int))symbol(name))(options, use_arena);
}
