#define _POSIX_C_SOURCE 200809L
#include "map.h"

#include <stdlib.h>
#include <string.h>

/* Returns the index of a key, or the index at which it would be inserted. */
static size_t place_of(const map_t *map, const char *key, bool *found)
{
    size_t low = 0, high = map->count;
    *found = false;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(map->entries[middle].key, key);
        if (order == 0) {
            *found = true;
            return middle;
        }
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static bool insert(map_t *map, size_t place, char *key, char *value)
{
    if (map->count == map->capacity) {
        size_t capacity = map->capacity == 0 ? 64 : 2 * map->capacity;
        entry_t *entries = realloc(map->entries, capacity * sizeof *entries);
        if (entries == NULL) {
            return false;
        }
        map->entries = entries;
        map->capacity = capacity;
    }
    memmove(map->entries + place + 1, map->entries + place, (map->count - place) * sizeof *map->entries);
    map->entries[place] = (entry_t){.key = key, .value = value};
    map->count++;
    return true;
}

bool map_put(map_t *map, const char *text, size_t length)
{
    bool found, kept = false;
    const char *space = memchr(text, ' ', length);
    if (space == NULL || space == text || memchr(text, '\0', length) != NULL) {
        return false;
    }
    size_t key_length = (size_t)(space - text);
    char *key = strndup(text, key_length), *value = strndup(space + 1, length - key_length - 1);
    if (key != NULL && value != NULL) {
        size_t place = place_of(map, key, &found);
        if (found) {
            free(map->entries[place].value);
            map->entries[place].value = value;
            free(key);
            return true;
        }
        kept = insert(map, place, key, value);
    }
    if (!kept) {
        free(key);
        free(value);
    }
    return kept;
}

const char *map_get(const map_t *map, const char *key)
{
    bool found;
    size_t place = place_of(map, key, &found);
    return found ? map->entries[place].value : NULL;
}

char *map_text(const map_t *map, size_t *length)
{
    size_t bytes = 0;
    for (size_t i = 0; i < map->count; i++) {
        bytes += strlen(map->entries[i].key) + strlen(map->entries[i].value) + 2;
    }
    char *text = malloc(bytes + 1), *end = text;
    if (text == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < map->count; i++) {
        end = stpcpy(end, map->entries[i].key);
        *end++ = ' ';
        end = stpcpy(end, map->entries[i].value);
        *end++ = '\n';
    }
    *end = '\0';
    *length = bytes;
    return text;
}

bool map_take(map_t *map, const char *text, size_t length)
{
    map_clear(map);
    for (size_t begin = 0; begin < length;) {
        const char *end = memchr(text + begin, '\n', length - begin);
        if (end == NULL || !map_put(map, text + begin, (size_t)(end - text) - begin)) {
            return false;
        }
        begin = (size_t)(end - text) + 1;
    }
    return true;
}

void map_clear(map_t *map)
{
    for (size_t i = 0; i < map->count; i++) {
        free(map->entries[i].key);
        free(map->entries[i].value);
    }
    free(map->entries);
    *map = (map_t){0};
}
