/*
 * Galerna: an RDMA-first replication engine.
 *
 * Calls return a galerna_result_t; galerna_last_error() has the text of the calling thread's last
 * error. The errors that a function lists are those without GALERNA_ERR_. Handles are freed by the
 * call that is named where they are made. Structs that begin with `size` are given the size that the
 * program was compiled with, so that later versions can append fields. No call exits or aborts.
 * A thread is not cancelled inside a call: pthread_cancel() comes into effect behind it.
 */

#ifndef GALERNA_H
#define GALERNA_H

/* Generated from ffi/src by cbindgen; do not edit. To make it anew: GALERNA_BLESS=1 cargo test -p galerna-ffi --test header */

#include <stddef.h>
#include <stdint.h>

/**
 * What a call answers: GALERNA_OK, or why it did nothing. The numbers never change, and none is ever reused.
 *
 * Any call may also return GALERNA_ERR_INTERNAL, and in a forked child GALERNA_ERR_FORKED.
 */
enum galerna_result_t
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * It is done.
   */
  GALERNA_OK = 0,
  /**
   * An argument is NULL where it must not be, misaligned, no value of its enumeration, not UTF-8, or a struct
   * whose `size` is not the one of this version.
   */
  GALERNA_ERR_ARGUMENT = 1,
  /**
   * The handle is NULL, was freed, or never was one.
   */
  GALERNA_ERR_HANDLE = 2,
  /**
   * The configuration is not usable; the text names the key and the value.
   */
  GALERNA_ERR_CONFIG = 3,
  /**
   * The message exceeds `max_message_bytes`.
   */
  GALERNA_ERR_MESSAGE_TOO_LARGE = 4,
  /**
   * The call would have to wait and must not: its timeout is 0, or it was made inside a callback.
   */
  GALERNA_ERR_WOULD_BLOCK = 5,
  /**
   * The timeout passed.
   */
  GALERNA_ERR_TIMED_OUT = 6,
  /**
   * Members did not appear before the join deadline; the text names them.
   */
  GALERNA_ERR_MEMBERS_MISSING = 7,
  /**
   * A member has another configuration; the text says which key differs.
   */
  GALERNA_ERR_DISAGREEMENT = 8,
  /**
   * A member refused this one.
   */
  GALERNA_ERR_REFUSED = 9,
  /**
   * The member's own address cannot be listened on.
   */
  GALERNA_ERR_LISTEN = 10,
  /**
   * A member broke the protocol while the group was being set up, and was severed.
   */
  GALERNA_ERR_CONTRACT = 12,
  /**
   * This process has left the group.
   */
  GALERNA_ERR_LEFT = 14,
  /**
   * There is no such subgroup.
   */
  GALERNA_ERR_UNKNOWN_SUBGROUP = 15,
  /**
   * The call cannot be made in this state, from this thread, or from inside a callback.
   */
  GALERNA_ERR_MISUSE = 16,
  /**
   * The operating system refused something.
   */
  GALERNA_ERR_IO = 17,
  /**
   * The process holds as many handles as it can: free some.
   */
  GALERNA_ERR_LIMIT = 18,
  /**
   * A defect of this library; please report it, with the text.
   */
  GALERNA_ERR_INTERNAL = 19,
  /**
   * The group stopped here: this process is cut off from more than half of the members.
   */
  GALERNA_ERR_PARTITIONED = 20,
  /**
   * The group stopped here: the others went on without this process, which they could not reach or which stood still.
   */
  GALERNA_ERR_REMOVED = 21,
  /**
   * This process joined, but could not take the group's state.
   */
  GALERNA_ERR_STATE_TRANSFER = 22,
  /**
   * The configuration demands RDMA, and this machine has none that can be used.
   */
  GALERNA_ERR_RDMA = 23,
  /**
   * Somebody has the log open for writing, in this process or in another; the text names its directory.
   */
  GALERNA_ERR_LOG_LOCKED = 24,
  /**
   * The log needs space, memory or a file descriptor, and there is none. Nothing that was durable is lost, and the log goes on
   * when there is.
   */
  GALERNA_ERR_LOG_FULL = 25,
  /**
   * Something that was durable is not as it was written; the text names the file and the offset.
   */
  GALERNA_ERR_LOG_DAMAGED = 26,
  /**
   * The log is another group's, subgroup's or member's; the text names the file and what differs.
   */
  GALERNA_ERR_LOG_FOREIGN = 27,
  /**
   * The log was written by a later version of this library.
   */
  GALERNA_ERR_LOG_FORMAT = 28,
  /**
   * What was asked for was trimmed away; the text says how far back the log goes.
   */
  GALERNA_ERR_LOG_TRIMMED = 29,
  /**
   * The disk refused a write or a sync. That is final: what was not durable by then may be lost. Open the log again.
   */
  GALERNA_ERR_LOG_FAILED = 30,
  /**
   * The record does not fit a segment of the log.
   */
  GALERNA_ERR_LOG_RECORD_TOO_LARGE = 31,
  /**
   * The record's version or time is not greater than the last one's.
   */
  GALERNA_ERR_LOG_ORDER = 32,
  /**
   * The group stopped: a callback of the application threw an exception; the text names the callback.
   */
  GALERNA_ERR_CALLBACK = 33,
  /**
   * What the handle stands for was made before a fork, and is the parent's: see galerna_group_t.
   */
  GALERNA_ERR_FORKED = 34,
  /**
   * Two groups have this name, and know nothing of each other; the text says where both are found.
   */
  GALERNA_ERR_TWO_GROUPS = 35,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum galerna_result_t galerna_result_t;
#else
typedef int32_t galerna_result_t;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * When a message may be delivered. One order holds for all modes.
 */
enum galerna_mode_t
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * As soon as it and all earlier messages of its sender are here; it may overtake other senders' messages.
   */
  GALERNA_MODE_FIFO = 0,
  /**
   * In the total order, as soon as everything before it is here. It can be lost with all members that saw it.
   */
  GALERNA_MODE_ORDERED = 1,
  /**
   * In the total order, once every member has received it.
   */
  GALERNA_MODE_SAFE = 2,
  /**
   * In the total order, once every member has received it and the members have it on their disks: all, or as many as
   * are configured. Only in groups with a log: elsewhere it is refused with GALERNA_ERR_MISUSE.
   */
  GALERNA_MODE_DURABLE = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum galerna_mode_t galerna_mode_t;
#else
typedef int32_t galerna_mode_t;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What a record of a log is.
 */
enum galerna_log_kind_t
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * A message of the application.
   */
  GALERNA_LOG_KIND_MESSAGE = 0,
  /**
   * Only in a group's log: the end of a view, in the library's own encoding.
   */
  GALERNA_LOG_KIND_DECISION = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum galerna_log_kind_t galerna_log_kind_t;
#else
typedef int32_t galerna_log_kind_t;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Who makes a group advance.
 */
enum galerna_drive_t
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * A thread of the library, which galerna_join() starts; callbacks run in it.
   */
  GALERNA_DRIVE_THREAD = 0,
  /**
   * The application: it waits until the descriptor of galerna_fd() is readable and calls galerna_dispatch(), in which
   * the callbacks run. Calls that wait dispatch by themselves meanwhile, so callbacks run in these too.
   */
  GALERNA_DRIVE_DISPATCH = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum galerna_drive_t galerna_drive_t;
#else
typedef int32_t galerna_drive_t;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * A configuration. Its calls may come from any thread; the handle is a number, so a freed one is an error and no crash. A
 * forked child may use it.
 */
typedef struct galerna_config_t galerna_config_t;

/**
 * A member of a group. The handle is a number: using one that was freed is an error and no crash.
 *
 * The member is the process's that joined. In a child that fork() makes, each call with a handle from before, of a group, a
 * log, or what was got from them, returns GALERNA_ERR_FORKED and touches nothing; the calls that free return GALERNA_OK and
 * do nothing. The bytes of an open reservation are not the child's either (on shared memory, touching them is a SIGSEGV).
 * The parent goes on undisturbed, and the child may join a group by itself, with a configuration from before or of its own.
 * Until it ends or calls exec, the child shares the parent's descriptors: if the parent dies meanwhile, the others notice it
 * by `failure_timeout_ms` only, and its port and its log stay taken. A child of vfork() may call nothing of the library.
 */
typedef struct galerna_group_t galerna_group_t;

/**
 * A checkpoint of the application beside a log: its state up to a version. Its calls may come from any thread, one after
 * another; the handle is a number, so a freed one is an error and no crash.
 */
typedef struct galerna_log_checkpoint_t galerna_log_checkpoint_t;

/**
 * A checkpoint that is being written; it counts when it is committed, as a whole. Its calls may come from any thread, one
 * after another; the handle is a number, so a freed one is an error and no crash.
 */
typedef struct galerna_log_checkpoint_writer_t galerna_log_checkpoint_writer_t;

/**
 * A record that was found in a log, with the memory that holds it. Its calls may come from any thread; the handle is a
 * number, so a freed one is an error and no crash. A process can hold 1024 of them.
 */
typedef struct galerna_log_entry_t galerna_log_entry_t;

/**
 * Goes through a log from one record to the next. Its calls may come from any thread, one after another; the handle is a
 * number, so a freed one is an error and no crash.
 */
typedef struct galerna_log_iter_t galerna_log_iter_t;

/**
 * An append-only log on disk, whose records are found again by version and by time. Its calls may come from any number of
 * threads; the handle is a number, so a freed one is an error and no crash.
 *
 * The directory stays locked until the log is closed. Its entries, iterators and checkpoint writers go on then, with what was
 * durable, also while somebody else writes the log; of a group's log, free them before this process joins again.
 */
typedef struct galerna_log_t galerna_log_t;

/**
 * What a `restore` callback reads from, in its thread and until it returns. The handle is a number: later, or elsewhere,
 * it is an error and no crash.
 */
typedef struct galerna_reader_t galerna_reader_t;

/**
 * How far a group with a log has come, as this member knows it. Numbers are of the total order: everything below has got that
 * far. None of them ever goes back.
 */
typedef struct galerna_frontiers_t {
  /**
   * Set it to sizeof(galerna_frontiers_t).
   */
  size_t size;
  /**
   * The number of the present view.
   */
  uint64_t view;
  /**
   * Received by every member, and handed to the log here.
   */
  uint64_t stable;
  /**
   * On this member's disk.
   */
  uint64_t persisted;
  /**
   * On the disks of all voters: nothing can take it back.
   */
  uint64_t everywhere;
  /**
   * On the disks of all voters, or of as many as `log.durable_members` says.
   */
  uint64_t durable;
  /**
   * The log up to this time is the same at every member, for good: no record that is still to come bears this time or an
   * earlier one. In nanoseconds since 1970, by the group's own clock, which is that of `time_ns` in a record.
   */
  uint64_t past_ns;
} galerna_frontiers_t;

/**
 * The place of a record in a log. Versions grow from record to record, with gaps: compare `view` first, then `sequence`.
 */
typedef struct galerna_version_t {
  /**
   * The number of the view that the message was delivered in; 0 in a log without a group.
   */
  uint64_t view;
  /**
   * Its number in the total order; in a log without a group it begins with 1.
   */
  uint64_t sequence;
} galerna_version_t;

/**
 * One delivered message. It is valid during the callback only, like the payload: ring memory, or a copy of it.
 */
typedef struct galerna_message_t {
  /**
   * Bytes of this struct as the library knows it: later versions append fields.
   */
  size_t size;
  /**
   * The message's bytes, `length` of them. Never NULL.
   */
  const void *payload;
  /**
   * Bytes of the payload.
   */
  size_t length;
  /**
   * Its number in the subgroup's total order; it goes on from view to view, and numbers are skipped where a
   * sender had nothing to say.
   */
  uint64_t sequence;
  /**
   * The `id` of the member that sent it.
   */
  uint32_t sender;
  /**
   * The mode it was sent with.
   */
  galerna_mode_t mode;
  /**
   * The subgroup.
   */
  uint16_t subgroup;
  /**
   * The number of the view that it is delivered in.
   */
  uint64_t view;
} galerna_message_t;

/**
 * Who is in the group, and how it came to be so: the same at every member, between the same two messages.
 *
 * Each list is a pointer to the ids and their number; the pointers are never NULL. In a callback they are valid until it
 * returns; after galerna_group_view(), until galerna_view_free().
 */
typedef struct galerna_view_t {
  /**
   * Set it to sizeof(galerna_view_t). In a callback, bytes of this struct as the library knows it.
   */
  size_t size;
  /**
   * 0 for the first view, one more for each that follows.
   */
  uint64_t number;
  /**
   * The members in the order of their ranks, the oldest first. The lowest rank, `members[0]`, is the natural leader,
   * where an application wants one.
   */
  const uint32_t *members;
  /**
   * How many.
   */
  size_t member_count;
  /**
   * This process's index in `members`.
   */
  size_t rank;
  /**
   * Those of `members` that vote, in the same order: only they count for the majority without which the group stops. A
   * process that joins is a member first, and votes in a later view, once it has the group's state. Before a member is
   * restarted or stopped, wait until all others that run are listed here.
   */
  const uint32_t *voters;
  /**
   * How many.
   */
  size_t voter_count;
  /**
   * Members that were not in the view before.
   */
  const uint32_t *joined;
  /**
   * How many.
   */
  size_t joined_count;
  /**
   * Members of the view before that asked to leave.
   */
  const uint32_t *left;
  /**
   * How many.
   */
  size_t left_count;
  /**
   * Members of the view before that died, stood still or could not be reached; see galerna_group_fault().
   */
  const uint32_t *failed;
  /**
   * How many.
   */
  size_t failed_count;
  /**
   * The library's.
   */
  void *private_handle;
} galerna_view_t;

/**
 * An application's state as of one moment: how to read it, and how to free it.
 *
 * Both functions run in a thread of the library, while further messages are delivered, but never at the same time. They
 * count as callbacks: see galerna_callbacks_t.
 */
typedef struct galerna_snapshot_t {
  /**
   * Bytes of this struct as the library knows it: later versions append fields.
   */
  size_t size;
  /**
   * Passed to the functions.
   */
  void *context;
  /**
   * Puts the next bytes of the state into `buffer`, at most `length` of them, and returns how many; 0 at the end of the
   * state. A negative number says that it cannot be read: the joining member is refused. Must be set.
   */
  ptrdiff_t (*read)(void *context, void *buffer, size_t length);
  /**
   * The state is not needed any more, read to its end or not. Called once. May be left NULL.
   */
  void (*free)(void *context);
} galerna_snapshot_t;

/**
 * What the application wants to hear, and how its state travels to a process that joins.
 *
 * Callbacks of a group come one at a time: with GALERNA_DRIVE_THREAD in a thread of the library, with
 * GALERNA_DRIVE_DISPATCH inside galerna_dispatch() and inside the calls that wait; `restore` and the first `view` come
 * inside galerna_join(), with either. In a group with a log so does `deliver`, before the first view and in a thread of the
 * library: a process that is started again is told what the log holds and its checkpoint does not. While they run the
 * group does nothing else, and after `failure_timeout_ms` of it this process looks dead to the others.
 *
 * Callbacks must return. A C++ exception that leaves one stops the group with GALERNA_ERR_CALLBACK (on x86-64 and AArch64;
 * elsewhere it ends the process). One that leaves by longjmp() or pthread_exit(), or by the cancellation of its thread,
 * leaves the library in an unknown state. The library's threads block all signals but those of a fault (SIGSEGV, SIGBUS,
 * SIGFPE, SIGILL, SIGTRAP, SIGSYS), and have a stack of `stack_bytes`, a key of the configuration.
 *
 * Inside a callback, of whichever group, no call waits: galerna_send(), galerna_reserve() and galerna_log_append() act as
 * if their timeout were 0, and galerna_join(), galerna_dispatch(), galerna_flush(), galerna_wait_durable(),
 * galerna_wait_past(), galerna_persist(), galerna_checkpoint(), galerna_trim_log(), galerna_leave(), galerna_group_free()
 * and those of a log that wait for its disk return GALERNA_ERR_MISUSE. The other calls are as usual.
 *
 * An application with state that is to take in joining members sets `snapshot` and `restore`. One that sets neither has
 * no state: its joining members begin with the messages that follow. In a group with a log both serve checkpoints as well:
 * `snapshot` is what galerna_checkpoint() keeps, and `restore` is given it when the process is started again.
 */
typedef struct galerna_callbacks_t {
  /**
   * Set it to sizeof(galerna_callbacks_t).
   */
  size_t size;
  /**
   * A message, in the order of the subgroup; `message` is valid until the callback returns. Must not be NULL.
   */
  void (*deliver)(void *context, const struct galerna_message_t *message);
  /**
   * The group stopped, for the reason that `code` and `text` give; nothing more is delivered. Called at most once, and
   * not because of this process's own leave. `text` is valid until the callback returns. May be NULL.
   */
  void (*stopped)(void *context, galerna_result_t code, const char *text);
  /**
   * Passed to the callbacks, which may use it in any thread until the group is freed.
   */
  void *context;
  /**
   * A view begins: between the last message of the one before and the first of its own, the same two at every member.
   * A process that joins is told its first view after `restore`: the state may hold messages of that view already, which do
   * not come again. `view` is valid until the callback returns. May be NULL.
   */
  void (*view)(void *context, const struct galerna_view_t *view);
  /**
   * A process joins: fill in how to read the state as of now, after everything that was delivered. It is read later, in
   * another thread, so it must not change with the messages that follow; and this call must be short: hand out a copy,
   * or something that shares what does not change. Return 0, or a number of the application's own to refuse, and then
   * nothing is freed: that is final for this member, the process asks another one, and galerna_group_fault() of the own
   * number says why. NULL together with `restore`.
   */
  int (*snapshot)(void *context, struct galerna_snapshot_t *snapshot);
  /**
   * This process joins: take another member's state in place of the own one, with galerna_reader_read(), before
   * anything is delivered and before galerna_join() has a handle. Return 0, or a number of the application's own if
   * it cannot: then the join fails, unless the reader had failed before. Called again, from the start, when the member that
   * sends the state dies in the middle: what an earlier call took is void then. It may take as long as the join. NULL
   * together with `snapshot`.
   */
  int (*restore)(void *context, struct galerna_reader_t *reader);
  /**
   * Only in a group with a log: everything numbered below `below` is durable now, on the disks of all voters or of as
   * many as are configured. It comes after the messages that this lets through. May be NULL.
   */
  void (*durable)(void *context, uint64_t below);
  /**
   * An operator should see to something about member `member`, which may be this process: its host's clock is further from
   * the others' than `log.clock_skew_max_ms`. The group goes on. `text` says what is wrong and what to do; it is valid until
   * the callback returns. It comes again after ten minutes if that lasts. Only in a group with a log. May be NULL.
   */
  void (*warned)(void *context, uint32_t member, const char *text);
} galerna_callbacks_t;

/**
 * How a log is made and used. A field that is 0 means its default.
 */
typedef struct galerna_log_options_t {
  /**
   * Set it to sizeof(galerna_log_options_t).
   */
  size_t size;
  /**
   * The size of a segment in bytes: a multiple of 4096, from 8 KiB to 2 GiB, 64 MiB by default. A record does not span
   * segments, and galerna_log_trim() removes whole ones. A log that is there already keeps the size it was made with.
   */
  uint64_t segment_bytes;
  /**
   * So many bytes may be appended and not durable yet; then appending waits. 64 MiB by default.
   */
  size_t backlog_max_bytes;
} galerna_log_options_t;

/**
 * What is known of a checkpoint.
 */
typedef struct galerna_log_checkpoint_info_t {
  /**
   * Set it to sizeof(galerna_log_checkpoint_info_t).
   */
  size_t size;
  /**
   * The last version that it covers: the records after it are to be applied to it.
   */
  struct galerna_version_t version;
  /**
   * The time it was given, in nanoseconds since 1970.
   */
  uint64_t time_ns;
  /**
   * Its length in bytes.
   */
  uint64_t length;
} galerna_log_checkpoint_info_t;

/**
 * What is in a record of a log.
 */
typedef struct galerna_log_record_t {
  /**
   * Set it to sizeof(galerna_log_record_t).
   */
  size_t size;
  /**
   * The record's bytes, `length` of them, where the log's file is mapped if this process writes the log. Never NULL;
   * valid until the entry is freed.
   */
  const void *payload;
  /**
   * Bytes of the payload.
   */
  size_t length;
  /**
   * Its place in the log.
   */
  struct galerna_version_t version;
  /**
   * When it was appended, in nanoseconds since 1970: greater than that of the record before.
   */
  uint64_t time_ns;
  /**
   * The `id` of the member that sent it; 0 in a log without a group.
   */
  uint32_t sender;
  /**
   * The mode it was sent with; GALERNA_MODE_ORDERED in a log without a group.
   */
  galerna_mode_t mode;
  /**
   * What it is.
   */
  galerna_log_kind_t kind;
} galerna_log_record_t;

/**
 * Ring bytes to fill in place: galerna_commit() sends them, galerna_abandon() gives them up; one of the two must follow.
 * Until then it holds back this process's later messages; galerna_leave() waits for it, and drops it in the end.
 *
 * It belongs to one thread at a time. What is in it is checked: changing it, or using it twice, is an error.
 */
typedef struct galerna_reservation_t {
  /**
   * Set it to sizeof(galerna_reservation_t).
   */
  size_t size;
  /**
   * Where the message goes; holds what earlier messages left there. NULL once it is committed or abandoned.
   */
  void *data;
  /**
   * Bytes of the message.
   */
  size_t length;
  /**
   * The library's.
   */
  uint32_t private_ticket;
  /**
   * The library's.
   */
  uint32_t private_word;
  /**
   * The library's.
   */
  uint64_t private_place;
  /**
   * The library's.
   */
  uint64_t private_check;
} galerna_reservation_t;

/**
 * Counters of a subgroup since the start, of this member alone.
 */
typedef struct galerna_stats_t {
  /**
   * Set it to sizeof(galerna_stats_t).
   */
  size_t size;
  /**
   * Messages sent.
   */
  uint64_t messages_sent;
  /**
   * Payload bytes of these.
   */
  uint64_t bytes_sent;
  /**
   * Null messages sent, which keep the order going while this member has nothing to say.
   */
  uint64_t nulls_sent;
  /**
   * Batches in which messages and nulls were published.
   */
  uint64_t batches_sent;
  /**
   * Messages delivered.
   */
  uint64_t messages_delivered;
  /**
   * Payload bytes of these.
   */
  uint64_t bytes_delivered;
  /**
   * Passes of the engine that delivered any.
   */
  uint64_t batches_delivered;
  /**
   * Passes of the engine.
   */
  uint64_t passes;
  /**
   * How often the engine slept.
   */
  uint64_t sleeps;
  /**
   * Writes that the transport was given, one per peer.
   */
  uint64_t fabric_writes_posted;
  /**
   * Bytes put on the wire, headers included; on shared memory the bytes of the ranges that were announced.
   */
  uint64_t fabric_bytes_sent;
  /**
   * Bytes taken from the wire, headers included; zero on shared memory.
   */
  uint64_t fabric_bytes_received;
  /**
   * System calls that moved data or woke a peer; on RDMA it is the device's driver who makes them, if any.
   */
  uint64_t fabric_system_calls;
  /**
   * Requests given to an RDMA device: writes, wake-ups and reads.
   */
  uint64_t fabric_work_requests;
  /**
   * Calls that gave an RDMA device its requests, each one doorbell.
   */
  uint64_t fabric_doorbells;
} galerna_stats_t;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * A configuration from TOML text, checked.
 *
 * - `toml`: a string that ends with a zero byte; not kept.
 * - `out`: takes the configuration, to be freed with galerna_config_free(), or NULL after an error.
 *
 * Any thread. Errors: ARGUMENT (NULL, not UTF-8), CONFIG (the text names the key), LIMIT.
 */
galerna_result_t galerna_config_from_toml(const char *toml, struct galerna_config_t **out);

/**
 * A configuration from a TOML file, checked.
 *
 * - `path`: the file's path, UTF-8, a string that ends with a zero byte; not kept.
 * - `out`: takes the configuration, to be freed with galerna_config_free(), or NULL after an error.
 *
 * Any thread. Errors: ARGUMENT (NULL, not UTF-8), IO (the file cannot be read), CONFIG (the text names the key), LIMIT.
 */
galerna_result_t galerna_config_from_file(const char *path,
                                          struct galerna_config_t **out);

/**
 * Says which of the configured members this process is; otherwise the key `member` does.
 *
 * - `member`: the `id` of one of the configured members.
 *
 * Any thread. Errors: HANDLE, CONFIG (there is no such member).
 */
galerna_result_t galerna_config_set_member(struct galerna_config_t *config, uint32_t member);

/**
 * Frees a configuration; groups that were joined with it do not need it any more. NULL and a second free do nothing.
 *
 * Any thread.
 */
void galerna_config_free(struct galerna_config_t *config);

/**
 * The descriptor of a group that was joined with GALERNA_DRIVE_DISPATCH. It is readable when galerna_join() returns, and
 * then whenever there is something to dispatch, the heartbeats included that are due as time passes. Wait for it with
 * poll, select or epoll, without a timeout if nothing else is to be done; use it for nothing else. It is the library's,
 * and is closed when the group is left or freed.
 *
 * - `fd`: takes the descriptor.
 *
 * Any thread. Errors: HANDLE, ARGUMENT (`fd` is NULL), MISUSE (the library drives this group), LEFT.
 */
galerna_result_t galerna_fd(const struct galerna_group_t *group,
                            int *fd);

/**
 * Does what there is to do in a group that was joined with GALERNA_DRIVE_DISPATCH, callbacks included, and returns
 * without waiting. In a busy group it returns before all is done; the descriptor is readable then.
 *
 * Any thread, one at a time. Errors: HANDLE, MISUSE (the library drives this group, or inside a callback), WOULD_BLOCK
 * (another thread dispatches at this moment, and does what was to do), LEFT, and the reason why the group stopped.
 */
galerna_result_t galerna_dispatch(struct galerna_group_t *group);

/**
 * How far a group has come. In a busy group it may be some passes of the engine old. Of a group without a log all but `size`
 * is 0.
 *
 * - `subgroup`: its number; 0 holds every member.
 * - `frontiers`: its `size` must be set; takes the frontiers.
 *
 * Any thread. Errors: HANDLE, ARGUMENT, UNKNOWN_SUBGROUP.
 */
galerna_result_t galerna_frontiers(const struct galerna_group_t *group,
                                   uint16_t subgroup,
                                   struct galerna_frontiers_t *frontiers);

/**
 * Waits until everything up to number `sequence` is durable, wherever that has to be.
 *
 * - `subgroup`: its number; 0 holds every member.
 * - `sequence`: the `sequence` of a message.
 * - `timeout_ms`: how long to wait, in milliseconds.
 *
 * Any thread, but not inside a callback. Errors: HANDLE, MISUSE (inside a callback, or the group has no log), TIMED_OUT,
 * UNKNOWN_SUBGROUP, LEFT, and the reason why the group stopped.
 */
galerna_result_t galerna_wait_durable(struct galerna_group_t *group,
                                      uint16_t subgroup,
                                      uint64_t sequence,
                                      uint32_t timeout_ms);

/**
 * Waits until the group's past reaches a time: from then on its log up to that time is the same at every member, for good.
 *
 * - `subgroup`: its number; 0 holds every member.
 * - `time_ns`: nanoseconds since 1970, as in a record's `time_ns`.
 * - `timeout_ms`: how long to wait, in milliseconds.
 *
 * Any thread, but not inside a callback. Errors: HANDLE, MISUSE (inside a callback, or the group has no log), TIMED_OUT,
 * UNKNOWN_SUBGROUP, LEFT, and the reason why the group stopped.
 */
galerna_result_t galerna_wait_past(struct galerna_group_t *group,
                                   uint16_t subgroup,
                                   uint64_t time_ns,
                                   uint32_t timeout_ms);

/**
 * Waits until everything that this process has sent, and all that was delivered here, is durable: on the disks of all
 * voters, or of as many as `log.durable_members` says.
 *
 * - `subgroup`: its number; 0 holds every member.
 * - `timeout_ms`: how long to wait, in milliseconds.
 *
 * Any thread, but not inside a callback. A reservation that is open holds it up. Errors: HANDLE, MISUSE (inside a callback,
 * or the group has no log), TIMED_OUT, UNKNOWN_SUBGROUP, LEFT, and the reason why the group stopped.
 */
galerna_result_t galerna_persist(struct galerna_group_t *group,
                                 uint16_t subgroup,
                                 uint32_t timeout_ms);

/**
 * Writes a checkpoint: asks the application's `snapshot` callback for the state, and keeps it on this member's disk, once all
 * that is in it is on the disks of all voters. When this process is started again its `restore` callback is given it, and then
 * `deliver` what came after it; galerna_trim_log() may drop what came before.
 *
 * - `subgroup`: its number; 0 holds every member.
 * - `timeout_ms`: how long to wait for each of the group and the disk, in milliseconds. When it passes, the checkpoint may be
 *   kept all the same.
 * - `version`: takes the last version that the checkpoint covers; may be NULL. Not written after an error.
 *
 * Any thread, but not inside a callback. Errors: HANDLE, ARGUMENT, MISUSE (inside a callback, or the group has no log),
 * TIMED_OUT, UNKNOWN_SUBGROUP, LEFT, IO (the application's `snapshot` failed), LOG_FULL, LOG_FAILED, and the reason why the
 * group stopped.
 */
galerna_result_t galerna_checkpoint(struct galerna_group_t *group,
                                    uint16_t subgroup,
                                    uint32_t timeout_ms,
                                    struct galerna_version_t *version);

/**
 * Drops records of the group's log before a version, in whole segments, on this member's disk.
 *
 * - `subgroup`: its number; 0 holds every member.
 * - `before`: the first record that is still needed, at most what galerna_checkpoint() gave last.
 *
 * It waits for the disk. Any thread, but not inside a callback. Errors: HANDLE, MISUSE (inside a callback, the group has no
 * log, or no checkpoint covers that much), UNKNOWN_SUBGROUP, TIMED_OUT, LOG_DAMAGED (the checkpoint is), LOG_FAILED, IO.
 */
galerna_result_t galerna_trim_log(struct galerna_group_t *group,
                                  uint16_t subgroup,
                                  struct galerna_version_t before);

/**
 * The group's log as this member has it on disk, to be read with the calls of a log, also while it grows. It is as one that
 * galerna_log_open_read_only() gives, but shows what becomes durable here later too. Records of GALERNA_LOG_KIND_DECISION in
 * it are the group's own: they begin views. Its checkpoints are not to be read here, but come by the `restore` callback.
 *
 * - `subgroup`: its number; 0 holds every member.
 * - `out`: takes the log, to be freed with galerna_log_free() or galerna_log_close(), or NULL after an error. It may outlive
 *   the group, and then shows what was there at the end.
 *
 * Any thread. Errors: HANDLE, ARGUMENT (`out` is NULL), MISUSE (the group has no log), UNKNOWN_SUBGROUP, LIMIT.
 */
galerna_result_t galerna_group_log(const struct galerna_group_t *group,
                                   uint16_t subgroup,
                                   struct galerna_log_t **out);

/**
 * Founds a group with the other members, or joins it if it runs; returns when this process votes in the group's view (see
 * galerna_view_t), so that the next member can be restarted or stopped, and the `view` callback was told so.
 *
 * - `config`: the configuration, with the own member set; it can be freed afterwards.
 * - `callbacks`: what to call; copied. The context must outlive the group's handle.
 * - `drive`: a galerna_drive_t, who makes the group advance.
 * - `out`: takes the handle, to be freed with galerna_group_free(), or NULL after an error. It is written before the
 *   first callback runs, but for `restore` and for the messages of its log that a process is told which is started again.
 *
 * Waits for at most the configuration's `join_timeout_ms`. Any thread, but not inside a callback.
 * Errors: ARGUMENT, HANDLE (of the configuration), CONFIG, MEMBERS_MISSING, DISAGREEMENT, REFUSED, TWO_GROUPS, LISTEN,
 * IO, LIMIT,
 * CALLBACK (`view` or `deliver` threw an exception during the join; the group is left),
 * LOG_LOCKED, LOG_FULL,
 * LOG_DAMAGED, LOG_FOREIGN, LOG_FORMAT, LOG_FAILED (of the group's log), MISUSE (inside a callback), and the reasons for which
 * a group stops.
 */
galerna_result_t galerna_join(const struct galerna_config_t *config,
                              const struct galerna_callbacks_t *callbacks,
                              galerna_drive_t drive,
                              struct galerna_group_t **out);

/**
 * Leaves the group: accepts nothing more, sends what was accepted, and asks the others to go on without this process. They
 * do so in a next view, whose `left` names it, and have been delivered all that it has sent. Callbacks go on meanwhile.
 * Afterwards the calls that need the group return GALERNA_ERR_LEFT; the handle is still to be freed.
 *
 * An open reservation holds back the messages after it. The leave waits half of its timeout for the galerna_commit() or
 * galerna_abandon(), then drops the reservation: nothing of it is sent, its galerna_commit() returns GALERNA_ERR_LEFT, and
 * its bytes may be written until then or until galerna_group_free().
 *
 * - `timeout_ms`: how long to wait, in milliseconds. When it passes, the process has left all the same, and the others
 *   see it fail.
 *
 * Any thread, also while another one is in galerna_dispatch(), but not inside a callback. Errors: HANDLE, MISUSE (inside a
 * callback), TIMED_OUT, LEFT, and the reason why the group stopped.
 */
galerna_result_t galerna_leave(struct galerna_group_t *group,
                               uint32_t timeout_ms);

/**
 * Frees a group's handle; without a galerna_leave() before, the others see this member fail. Calls that wait in other
 * threads return GALERNA_ERR_LEFT. When it returns, no callback runs and none will. Open reservations are gone.
 *
 * NULL and a second free do nothing and return GALERNA_OK. Any thread, but not inside a callback, and not while holding
 * a lock that a callback waits for. Errors: HANDLE (it never was one), MISUSE (inside a callback; the group goes on).
 */
galerna_result_t galerna_group_free(struct galerna_group_t *group);

/**
 * This process's number: the `id` that it has in the configuration.
 *
 * - `member`: takes the number.
 *
 * Any thread. Errors: HANDLE, ARGUMENT (`member` is NULL).
 */
galerna_result_t galerna_group_member(const struct galerna_group_t *group, uint32_t *member);

/**
 * What this process observed first that speaks against a member: why it suspects it, or which other member does. Of a member
 * that was removed, what led to that; of one that is in the view, what was observed since the view began. For people: other
 * members may have observed something else.
 *
 * - `member`: its number; of one that nothing is known against, or that is none, the text is empty.
 * - `text`: takes at most `capacity` bytes of the text, the zero byte at the end included; may be NULL when `capacity` is
 *   0.
 * - `length`: takes the bytes of the whole text, without the zero byte; may be NULL.
 *
 * Any thread. Errors: HANDLE, ARGUMENT.
 */
galerna_result_t galerna_group_fault(const struct galerna_group_t *group,
                                     uint32_t member,
                                     char *text,
                                     size_t capacity,
                                     size_t *length);

/**
 * The largest message of a subgroup, in bytes.
 *
 * - `subgroup`: its number; 0 holds every member.
 * - `bytes`: takes the limit.
 *
 * Any thread. Errors: HANDLE, ARGUMENT (`bytes` is NULL), UNKNOWN_SUBGROUP.
 */
galerna_result_t galerna_max_message(const struct galerna_group_t *group,
                                     uint16_t subgroup,
                                     size_t *bytes);

/**
 * Opens the log in a directory for writing, or makes one. What a crash left is put in order.
 *
 * - `directory`: its path, UTF-8, a string that ends with a zero byte; made if there is none. Not kept.
 * - `options`: may be NULL, for the defaults; not kept.
 * - `out`: takes the log, to be freed with galerna_log_close(), or NULL after an error.
 *
 * Any thread. Errors: ARGUMENT, CONFIG (an option is out of its range), LOG_LOCKED (somebody has it open for writing),
 * LOG_DAMAGED (something that was durable is lost), LOG_FOREIGN, LOG_FORMAT, LOG_FULL, LOG_FAILED, IO, LIMIT.
 */
galerna_result_t galerna_log_open(const char *directory,
                                  const struct galerna_log_options_t *options,
                                  struct galerna_log_t **out);

/**
 * Opens a log for reading what is in it now, also while another process, or this one, writes it. Changes nothing. It may be
 * a group's log too.
 *
 * - `directory`: its path, UTF-8, a string that ends with a zero byte; not kept.
 * - `out`: takes the log, to be freed with galerna_log_close(), or NULL after an error.
 *
 * Any thread. Errors: ARGUMENT, IO (there is no log), LOG_DAMAGED, LOG_FORMAT, LIMIT.
 */
galerna_result_t galerna_log_open_read_only(const char *directory,
                                            struct galerna_log_t **out);

/**
 * Makes durable what was appended, and frees the log, also when that fails. It waits for the disk, and for the calls that
 * are under way in other threads.
 *
 * NULL and a second close do nothing and return GALERNA_OK. Any thread, but not inside a callback. Errors: HANDLE (it never
 * was one), MISUSE (inside a callback; the log stays open); and why not all that was appended is durable: LOG_FULL,
 * LOG_FAILED.
 */
galerna_result_t galerna_log_close(struct galerna_log_t *log);

/**
 * The same as galerna_log_close(), for who does not ask whether all is durable.
 *
 * NULL and a second free do nothing and return GALERNA_OK. Any thread, but not inside a callback. Errors: HANDLE (it never
 * was one), MISUSE (inside a callback; the log stays open).
 */
galerna_result_t galerna_log_free(struct galerna_log_t *log);

/**
 * Appends a record with a copy of `length` bytes, the next version and the time of now. It is durable after
 * galerna_log_sync() or galerna_log_wait_durable(); only then it can be read.
 *
 * - `data`: the bytes; may be NULL when `length` is 0. Not kept.
 * - `timeout_ms`: how long to wait while `backlog_max_bytes` are not durable yet, in milliseconds; 0 does not wait. Inside a
 *   callback it counts as 0.
 * - `version`: takes the record's version; may be NULL.
 *
 * Any thread; records of one thread are in the order of its calls. Errors: HANDLE, ARGUMENT, LOG_RECORD_TOO_LARGE,
 * WOULD_BLOCK (the disk is behind, and the timeout 0), TIMED_OUT (it stayed behind), LOG_FULL (there is no space, and what
 * was appended before waits for it), LOG_FAILED, MISUSE (the log is open for reading only).
 */
galerna_result_t galerna_log_append(struct galerna_log_t *log,
                                    const void *data,
                                    size_t length,
                                    uint32_t timeout_ms,
                                    struct galerna_version_t *version);

/**
 * The same as galerna_log_append() with a timeout of 0: it never waits.
 *
 * Any thread. Errors: HANDLE, ARGUMENT, LOG_RECORD_TOO_LARGE, WOULD_BLOCK (the disk is behind), LOG_FULL, LOG_FAILED,
 * MISUSE (the log is open for reading only).
 */
galerna_result_t galerna_log_try_append(struct galerna_log_t *log,
                                        const void *data,
                                        size_t length,
                                        struct galerna_version_t *version);

/**
 * Waits until everything that was appended before the call is durable.
 *
 * - `timeout_ms`: how long to wait, in milliseconds.
 *
 * Any thread, but not inside a callback. Errors: HANDLE, TIMED_OUT, LOG_FULL, LOG_FAILED, MISUSE (inside a callback, or
 * the log is open for reading only).
 */
galerna_result_t galerna_log_sync(struct galerna_log_t *log,
                                  uint32_t timeout_ms);

/**
 * Waits until the record of this version, and all before it, are durable.
 *
 * - `timeout_ms`: how long to wait, in milliseconds.
 *
 * Any thread, but not inside a callback. Errors: HANDLE, TIMED_OUT, LOG_FULL, LOG_FAILED, MISUSE (inside a callback, or
 * the log is open for reading only).
 */
galerna_result_t galerna_log_wait_durable(struct galerna_log_t *log,
                                          struct galerna_version_t version,
                                          uint32_t timeout_ms);

/**
 * The version of the last durable record; `0.0` if there was none yet. It never waits.
 *
 * - `version`: takes it.
 *
 * Any thread. Errors: HANDLE, ARGUMENT (`version` is NULL), MISUSE (the log is open for reading only, and what another
 * process has not synced is in it too: see galerna_log_end()).
 */
galerna_result_t galerna_log_durable(const struct galerna_log_t *log,
                                     struct galerna_version_t *version);

/**
 * Removes whole segments of records before a version, durably. What is left begins at galerna_log_oldest(), which may be
 * before that version.
 *
 * - `before`: the first record that is still needed.
 * - `timeout_ms`: how long to wait, in milliseconds. When it passes, the log trims all the same.
 *
 * Any thread, but not inside a callback. Errors: HANDLE, TIMED_OUT, LOG_FAILED, IO, MISUSE (inside a callback, or the log
 * is open for reading only).
 */
galerna_result_t galerna_log_trim(struct galerna_log_t *log,
                                  struct galerna_version_t before,
                                  uint32_t timeout_ms);

/**
 * Opens the newest checkpoint, verified as a whole.
 *
 * - `out`: takes the checkpoint, to be freed with galerna_log_checkpoint_free(), or NULL if there is none, and after an
 *   error.
 *
 * Any thread. Errors: HANDLE, ARGUMENT (`out` is NULL), LOG_DAMAGED (it is not as it was written; the text names the file
 * and the offset), LOG_FOREIGN, LOG_FORMAT, IO, LIMIT, MISUSE (the log is from galerna_group_log()).
 */
galerna_result_t galerna_log_checkpoint_load(const struct galerna_log_t *log,
                                             struct galerna_log_checkpoint_t **out);

/**
 * What is known of a checkpoint.
 *
 * - `info`: its `size` must be set; takes it.
 *
 * Any thread. Errors: HANDLE, ARGUMENT.
 */
galerna_result_t galerna_log_checkpoint_info(const struct galerna_log_checkpoint_t *checkpoint,
                                             struct galerna_log_checkpoint_info_t *info);

/**
 * Reads the next bytes of a checkpoint: `length` of them, or fewer at its end.
 *
 * - `buffer`: takes the bytes; may be NULL when `length` is 0.
 * - `got`: takes their number; less than `length` only at the end of the checkpoint, and 0 after an error.
 *
 * Any thread. Errors: HANDLE, ARGUMENT, IO.
 */
galerna_result_t galerna_log_checkpoint_read(struct galerna_log_checkpoint_t *checkpoint,
                                             void *buffer,
                                             size_t length,
                                             size_t *got);

/**
 * Frees a checkpoint's handle; the checkpoint stays. NULL and a second free do nothing.
 *
 * Any thread.
 */
void galerna_log_checkpoint_free(struct galerna_log_checkpoint_t *checkpoint);

/**
 * Begins a checkpoint of the application's state, to be written with galerna_log_checkpoint_write() and committed with
 * galerna_log_checkpoint_commit(); galerna_log_trim() may then remove the records that it covers.
 *
 * - `version`: the last version that it covers. One checkpoint of each version at a time.
 * - `time_ns`: kept with it: nanoseconds since 1970.
 * - `out`: takes the writer, to be freed with galerna_log_checkpoint_abandon() or by the commit; NULL after an error.
 *
 * Any thread. Errors: HANDLE, ARGUMENT (`out` is NULL), LOG_FULL, IO, LIMIT, MISUSE (the log is open for reading only).
 */
galerna_result_t galerna_log_checkpoint_begin(struct galerna_log_t *log,
                                              struct galerna_version_t version,
                                              uint64_t time_ns,
                                              struct galerna_log_checkpoint_writer_t **out);

/**
 * Appends `length` bytes to a checkpoint.
 *
 * - `data`: the bytes; may be NULL when `length` is 0. Not kept.
 *
 * Any thread. Errors: HANDLE, ARGUMENT; LOG_FULL and IO, after which it is to be abandoned.
 */
galerna_result_t galerna_log_checkpoint_write(struct galerna_log_checkpoint_writer_t *writer,
                                              const void *data,
                                              size_t length);

/**
 * Makes a checkpoint durable, in place of the older ones, and frees the writer, also when that fails.
 *
 * - `timeout_ms`: how long to wait for the log, in milliseconds. When it passes, the log may commit it all the same.
 *
 * Any thread, but not inside a callback. Errors: HANDLE (of the writer; or its log was closed), TIMED_OUT, LOG_FULL,
 * LOG_FAILED, IO, MISUSE (inside a callback; the writer stays).
 */
galerna_result_t galerna_log_checkpoint_commit(struct galerna_log_checkpoint_writer_t *writer,
                                               uint32_t timeout_ms);

/**
 * Gives a checkpoint up, and frees the writer: nothing of it stays. NULL, a second time, and after a commit it does
 * nothing.
 *
 * Any thread.
 */
void galerna_log_checkpoint_abandon(struct galerna_log_checkpoint_writer_t *writer);

/**
 * What is in a record.
 *
 * - `record`: its `size` must be set; takes the record, whose payload is valid until the entry is freed.
 *
 * Any thread. Errors: HANDLE, ARGUMENT.
 */
galerna_result_t galerna_log_entry_record(const struct galerna_log_entry_t *entry,
                                          struct galerna_log_record_t *record);

/**
 * Frees an entry, and with it its payload. NULL and a second free do nothing.
 *
 * Any thread.
 */
void galerna_log_entry_free(struct galerna_log_entry_t *entry);

/**
 * Begins to go through the records of a log.
 *
 * - `from`: the first record is that of this version, or the one after it; NULL is the oldest there is. Not kept.
 * - `out`: takes the iterator, to be freed with galerna_log_iter_free(), or NULL after an error.
 *
 * Any thread. Errors: HANDLE, ARGUMENT, LIMIT.
 */
galerna_result_t galerna_log_iterate(const struct galerna_log_t *log,
                                     const struct galerna_version_t *from,
                                     struct galerna_log_iter_t **out);

/**
 * The next record, if it is durable.
 *
 * - `out`: takes the entry, to be freed with galerna_log_entry_free(), or NULL at the end of the log, and after an error. At
 *   the end, the same call later goes on with what was appended meanwhile; after an error of the log there is nothing more.
 *
 * Any thread. Errors: HANDLE, ARGUMENT (`out` is NULL), LOG_TRIMMED, LOG_DAMAGED (the text names the file and the offset),
 * IO, LIMIT (the iterator stays where it is).
 */
galerna_result_t galerna_log_iter_next(struct galerna_log_iter_t *iter,
                                       struct galerna_log_entry_t **out);

/**
 * Frees an iterator; its entries stay. NULL and a second free do nothing.
 *
 * Any thread.
 */
void galerna_log_iter_free(struct galerna_log_iter_t *iter);

/**
 * The version of the oldest record there is.
 *
 * - `version`: takes it; `0.0` if there is no record.
 * - `found`: takes 1, or 0 if there is no record; may be NULL. Only in a group's log `0.0` can be a record's.
 *
 * Any thread. Errors: HANDLE, ARGUMENT (`version` is NULL), LOG_DAMAGED, IO.
 */
galerna_result_t galerna_log_oldest(const struct galerna_log_t *log,
                                    struct galerna_version_t *version,
                                    int *found);

/**
 * The version of the last record that can be read: the last durable one, or in a log that is open for reading only the last
 * one there was when it was opened. It stays when a trim leaves nothing.
 *
 * - `version`: takes it; `0.0` if there was no record.
 * - `found`: takes 1, or 0 if there was no record; may be NULL. Only in a group's log `0.0` can be a record's.
 *
 * Any thread. Errors: HANDLE, ARGUMENT (`version` is NULL).
 */
galerna_result_t galerna_log_end(const struct galerna_log_t *log,
                                 struct galerna_version_t *version,
                                 int *found);

/**
 * The record of exactly this version, if it is durable.
 *
 * - `out`: takes the entry, to be freed with galerna_log_entry_free(), or NULL if there is none, and after an error.
 *
 * Any thread. Errors: HANDLE, ARGUMENT (`out` is NULL), LOG_TRIMMED, LOG_DAMAGED (the text names the file and the offset),
 * IO, LIMIT.
 */
galerna_result_t galerna_log_get(const struct galerna_log_t *log,
                                 struct galerna_version_t version,
                                 struct galerna_log_entry_t **out);

/**
 * The first durable record of this version or a greater one.
 *
 * - `out`: takes the entry, to be freed with galerna_log_entry_free(), or NULL if there is none, and after an error.
 *
 * Any thread. Errors: HANDLE, ARGUMENT (`out` is NULL), LOG_TRIMMED, LOG_DAMAGED (the text names the file and the offset),
 * IO, LIMIT.
 */
galerna_result_t galerna_log_first_at_or_after(const struct galerna_log_t *log,
                                               struct galerna_version_t version,
                                               struct galerna_log_entry_t **out);

/**
 * The last durable record of this time or an earlier one: the state of that moment.
 *
 * - `time_ns`: nanoseconds since 1970.
 * - `out`: takes the entry, to be freed with galerna_log_entry_free(), or NULL if there is none, and after an error.
 *
 * Any thread. Errors: HANDLE, ARGUMENT (`out` is NULL), LOG_TRIMMED, LOG_DAMAGED (the text names the file and the offset),
 * IO, LIMIT.
 */
galerna_result_t galerna_log_at_time(const struct galerna_log_t *log,
                                     uint64_t time_ns,
                                     struct galerna_log_entry_t **out);

/**
 * Reads the next bytes of a state: `length` of them, or fewer at its end.
 *
 * - `reader`: what the `restore` callback was given.
 * - `buffer`: takes the bytes; may be NULL when `length` is 0.
 * - `got`: takes their number; less than `length` only at the end of the state, and 0 after an error.
 *
 * It waits for the sender. Only in the thread of the callback, until that returns. Errors: HANDLE, ARGUMENT, IO (the state
 * ends here unfinished: its sender died, or could not read it; let the callback return an error).
 */
galerna_result_t galerna_reader_read(struct galerna_reader_t *reader,
                                     void *buffer,
                                     size_t length,
                                     size_t *got);

/**
 * Reserves `length` bytes of the ring, to be filled in place. The order of one process's messages is that of their
 * reservations.
 *
 * - `subgroup`: its number; 0 holds every member.
 * - `length`: bytes of the message.
 * - `timeout_ms`: how long to wait while the ring is full, in milliseconds; 0 does not wait. Inside a callback it counts
 *   as 0.
 * - `out`: its `size` must be set; takes the reservation. After an error nothing is reserved, and `data` is NULL unless
 *   `out` itself was wrong.
 *
 * Any thread. Errors: HANDLE, ARGUMENT, MESSAGE_TOO_LARGE, WOULD_BLOCK (the ring is full, and the timeout 0), TIMED_OUT
 * (it stayed full), UNKNOWN_SUBGROUP, LEFT, and the reason why the group stopped.
 */
galerna_result_t galerna_reserve(struct galerna_group_t *group,
                                 uint16_t subgroup,
                                 size_t length,
                                 uint32_t timeout_ms,
                                 struct galerna_reservation_t *out);

/**
 * Sends a reserved message, and clears the reservation.
 *
 * - `reservation`: filled by galerna_reserve() for this group, and not used up.
 * - `mode`: a galerna_mode_t, when the message may be delivered.
 *
 * It never waits. Any thread. Errors: HANDLE, ARGUMENT (the reservation stays open), MISUSE (the reservation is not open; or
 * the message is durable and the group has no log, and then it stays open), LEFT (galerna_leave() dropped it: nothing is
 * sent, and the reservation is cleared), UNKNOWN_SUBGROUP. In a group that has stopped it does nothing, and says so at the next galerna_reserve().
 */
galerna_result_t galerna_commit(struct galerna_group_t *group,
                                struct galerna_reservation_t *reservation,
                                galerna_mode_t mode);

/**
 * Gives a reservation up, and clears it; nothing is sent.
 *
 * - `reservation`: filled by galerna_reserve() for this group, and not used up.
 *
 * It never waits. Any thread. Errors: HANDLE, ARGUMENT, MISUSE (the reservation is not open), UNKNOWN_SUBGROUP. One that
 * galerna_leave() has dropped is no error.
 */
galerna_result_t galerna_abandon(struct galerna_group_t *group,
                                 struct galerna_reservation_t *reservation);

/**
 * A short description of a result code, in English.
 *
 * Returns a static string, never NULL, also for numbers that are no code. Any thread.
 */
const char *galerna_strerror(galerna_result_t result);

/**
 * The text of the last error in the calling thread: what was wrong, the value, and what to do. Successful calls leave it
 * as it is.
 *
 * Returns a string that is valid until the thread's next call of this function, and empty when no call has failed in
 * this thread. Never NULL. Any thread.
 */
const char *galerna_last_error(void);

/**
 * The version of the library, as in "1.2.3".
 *
 * Returns a static string. Any thread.
 */
const char *galerna_version(void);

/**
 * Sends a copy of `length` bytes. It returns when the message is accepted, not when it is delivered: see
 * galerna_flush().
 *
 * - `subgroup`: its number; 0 holds every member.
 * - `mode`: a galerna_mode_t, when it may be delivered.
 * - `data`: the bytes; may be NULL when `length` is 0. Not kept.
 * - `timeout_ms`: how long to wait while the ring is full, in milliseconds; 0 does not wait. Inside a callback it counts
 *   as 0.
 *
 * Any thread; messages of one thread are sent in the order of its calls. Errors: HANDLE, ARGUMENT, MESSAGE_TOO_LARGE,
 * WOULD_BLOCK (the ring is full, and the timeout 0), TIMED_OUT (it stayed full), UNKNOWN_SUBGROUP, MISUSE (a durable message in
 * a group without a log), LEFT, and the reason why the group stopped.
 */
galerna_result_t galerna_send(struct galerna_group_t *group,
                              uint16_t subgroup,
                              galerna_mode_t mode,
                              const void *data,
                              size_t length,
                              uint32_t timeout_ms);

/**
 * Waits until everything that this process has sent, and all that was delivered here, is received by `k` members: no
 * crash of fewer can lose it any more.
 *
 * - `subgroup`: its number; 0 holds every member.
 * - `k`: how many members, this one included; 0, or more than there are, means all.
 * - `timeout_ms`: how long to wait, in milliseconds.
 *
 * Any thread, but not inside a callback. A reservation that is open holds it up. Errors: HANDLE, MISUSE (inside a
 * callback), TIMED_OUT, UNKNOWN_SUBGROUP, LEFT, and the reason why the group stopped.
 */
galerna_result_t galerna_flush(struct galerna_group_t *group,
                               uint16_t subgroup,
                               size_t k,
                               uint32_t timeout_ms);

/**
 * Counters of a subgroup. In a busy group they may be some passes of the engine old; an idle one brings them up to date,
 * and so does the end: they stay after the leave.
 *
 * - `subgroup`: its number; 0 holds every member.
 * - `stats`: its `size` must be set; takes the counters.
 *
 * Any thread. Errors: HANDLE, ARGUMENT, UNKNOWN_SUBGROUP.
 */
galerna_result_t galerna_stats(const struct galerna_group_t *group,
                               uint16_t subgroup,
                               struct galerna_stats_t *stats);

/**
 * The view that the application was told of last; also after the leave, and in a group that has stopped.
 *
 * - `view`: its `size` must be set; takes the view, to be freed with galerna_view_free(). After an error it holds nothing.
 *
 * Any thread. Errors: HANDLE, ARGUMENT, LIMIT.
 */
galerna_result_t galerna_group_view(const struct galerna_group_t *group,
                                    struct galerna_view_t *view);

/**
 * Frees what galerna_group_view() filled in, and clears it. NULL, a second free, and the free of a copy do nothing.
 *
 * Any thread.
 */
void galerna_view_free(struct galerna_view_t *view);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* GALERNA_H */
