# Puts programs into one directory with the shared libraries that they need, libc's left out: what runs on a bare machine
# of the same architecture whose glibc is not older than this one's.
#
#   cmake -DSOURCE=... -DBUNDLE=... -DPROGRAMS=a;b -DTEST_PROGRAMS=c;d -DSTRIP=strip -P bundle.cmake
#
# BUNDLE/bin programs, BUNDLE/tests/bin test programs, BUNDLE/lib libraries (found from $ORIGIN of either), and as in
# the source tree: examples, schema, what tests/gpu/check.sh runs, README.md, LICENSE. The goldens that it checks are in
# BUNDLE/tests/fixtures, where the environment's TROUPE_FIXTURES, or else SOURCE/../shared/fixtures, has them.
foreach(argument SOURCE BUNDLE PROGRAMS STRIP)
  if(NOT DEFINED ${argument})
    message(FATAL_ERROR "bundle.cmake: -D${argument}= is missing")
  endif()
endforeach()
file(REMOVE_RECURSE ${BUNDLE})

# UCX loads its transports from a folder beside its own library. Copies between processes of one host are all that a
# bundle has beyond what is built in (TCP, shared memory): InfiniBand needs the libraries of its host's driver.
set(modules)
foreach(program ${PROGRAMS})
  execute_process(COMMAND ldd ${program} OUTPUT_VARIABLE linked COMMAND_ERROR_IS_FATAL ANY)
  if(linked MATCHES "libucs\\.so[^ ]* => ([^ \n]+)")
    file(REAL_PATH ${CMAKE_MATCH_1} ucs)
    get_filename_component(ucs_folder ${ucs} DIRECTORY)
    file(GLOB found ${ucs_folder}/ucx/libuct_cma.so.0)
    list(APPEND modules ${found})
  endif()
endforeach()
list(REMOVE_DUPLICATES modules)

file(GET_RUNTIME_DEPENDENCIES EXECUTABLES ${PROGRAMS} ${TEST_PROGRAMS} LIBRARIES ${modules}
     RESOLVED_DEPENDENCIES_VAR libraries UNRESOLVED_DEPENDENCIES_VAR missing
     PRE_EXCLUDE_REGEXES "^ld-linux" "^linux-vdso" "^lib(c|m|dl|rt|pthread|resolv|util)\\.so")
if(missing)
  message(FATAL_ERROR "bundle: not found: ${missing}")
endif()

function(put into)
  file(COPY ${ARGN} DESTINATION ${into} FOLLOW_SYMLINK_CHAIN)
endfunction()
put(${BUNDLE}/bin ${PROGRAMS})
if(TEST_PROGRAMS)
  put(${BUNDLE}/tests/bin ${TEST_PROGRAMS})
endif()
put(${BUNDLE}/lib ${libraries})
if(modules)
  put(${BUNDLE}/lib/ucx ${modules})
endif()
file(GLOB_RECURSE binaries ${BUNDLE}/bin/* ${BUNDLE}/tests/bin/* ${BUNDLE}/lib/*)
foreach(binary ${binaries})
  if(NOT IS_SYMLINK ${binary})
    execute_process(COMMAND ${STRIP} --strip-unneeded ${binary} COMMAND_ERROR_IS_FATAL ANY)
  endif()
endforeach()

file(COPY ${SOURCE}/examples ${SOURCE}/schema ${SOURCE}/README.md ${SOURCE}/LICENSE DESTINATION ${BUNDLE}
     PATTERN CMakeLists.txt EXCLUDE PATTERN __pycache__ EXCLUDE)
file(COPY ${SOURCE}/tests/gpu DESTINATION ${BUNDLE}/tests)
file(COPY ${SOURCE}/tests/bench/gpu_peer.py DESTINATION ${BUNDLE}/tests/bench)
set(fixtures $ENV{TROUPE_FIXTURES})
if(NOT fixtures)
  set(fixtures ${SOURCE}/../shared/fixtures)
endif()
foreach(fixture stories260K golden/mixtral golden/qwen2_moe golden/qwen3_moe)
  if(EXISTS ${fixtures}/${fixture})
    get_filename_component(folder ${BUNDLE}/tests/fixtures/${fixture} DIRECTORY)
    file(COPY ${fixtures}/${fixture} DESTINATION ${folder})
  endif()
endforeach()

file(GLOB_RECURSE everything LIST_DIRECTORIES false ${BUNDLE}/*)
set(bytes 0)
foreach(file ${everything})
  if(NOT IS_SYMLINK ${file})
    file(SIZE ${file} size)
    math(EXPR bytes "${bytes} + ${size}")
  endif()
endforeach()
math(EXPR megabytes "${bytes} / 1000000")
message(STATUS "bundle: ${BUNDLE}, ${megabytes} MB")
