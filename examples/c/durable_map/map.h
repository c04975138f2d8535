/* The replicated state: values by key, sorted by key. It is independent of groups. */
#ifndef MAP_H
#define MAP_H

#include <stdbool.h>
#include <stddef.h>

typedef struct {
    char *key, *value;
} entry_t;

/* A map. It is empty if all bytes are zero. */
typedef struct {
    entry_t *entries;
    size_t count, capacity;
} map_t;

/* Sets a key from the text "KEY VALUE" of `length` bytes. Returns false if the text is malformed or memory is
 * exhausted. */
bool map_put(map_t *map, const char *text, size_t length);

/* Returns the value of a key, or NULL. The value is valid until the map changes. */
const char *map_get(const map_t *map, const char *key);

/* Returns the whole map as lines "KEY VALUE", to be freed with free(). Returns NULL if memory is exhausted. */
char *map_text(const map_t *map, size_t *length);

/* Replaces the map by the contents of such lines. Returns false if they are malformed or memory is exhausted. */
bool map_take(map_t *map, const char *text, size_t length);

/* Frees all entries. */
void map_clear(map_t *map);

#endif
